#pragma once
// BpeMergeLearner: the merges of a byte-level BPE from counted words. Each pair of neighbours knows its count and the
// words it was seen in; a merge visits only those words, counts the pairs that it makes and unmakes per neighbour, and
// books them once. The queue of pairs is lazy: an entry whose count has fallen since is put back when it comes up.
// Counts are exact: the words always stand as the merges so far encode them.

#include <array>
#include <functional>
#include <unordered_map>

#include "io/tokenizer/bpe_merger.h"
#include "io/tokenizer/bpe_model.h"
#include "io/tokenizer/bpe_word_counter.h"

namespace capstan {

class BpeMergeLearner {
 public:
  /// `longest_piece` 0: no limit.
  BpeMergeLearner(const WordCounter& words, uint64_t least_count, size_t longest_piece);
  /// Bytes and merges, up to `pieces` pieces. Once.
  BpeSpec learn(uint32_t pieces, const std::function<void(uint32_t done, uint32_t total)>& progress);

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Word {
    uint64_t begin = 0, count = 0;
    uint32_t size = 0;
  };
  struct Pair {
    uint32_t left = 0, right = 0;
    int64_t count = 0;
    uint32_t last_run = kNone;  ///< of the words it was seen in
    bool merged = false;
  };
  struct Run {
    uint64_t begin = 0;  ///< in seen_in_
    uint32_t size = 0, before = kNone;
  };
  struct Candidate {
    int64_t count = 0;
    uint32_t left = 0, right = 0, pair = 0;
    bool operator<(const Candidate& other) const {  // of a heap whose top is the largest
      if (count != other.count) return count < other.count;
      return left != other.left ? left > other.left : right > other.right;
    }
  };
  /// What a merge changes on one side of the pair, by the symbol that is the neighbour there.
  struct Side {
    struct Seen {
      uint32_t neighbour, word;
    };
    std::vector<int64_t> fewer, more;
    std::vector<uint32_t> times;
    std::vector<uint32_t> neighbours;
    std::vector<Seen> seen;
    void touch(uint32_t neighbour);
    void add(uint32_t neighbour, uint32_t word, int64_t count);
    void clear();
  };

  void add_bytes();
  void add_words(const WordCounter& words);
  void count_first_pairs();
  uint32_t pair_of(uint32_t left, uint32_t right);
  void change(uint32_t left, uint32_t right, int64_t by);
  uint64_t add_run(Pair& pair, uint32_t size);
  void propose(uint32_t pair);
  uint32_t best_pair();
  uint32_t piece_for(uint32_t left, uint32_t right);
  void merge(uint32_t pair);
  void merge_in_word(uint32_t word, const BpeSpec::Merge& merge);
  void book(Side& side, const BpeSpec::Merge& merge, bool left);
  void encode_again(uint32_t word);

  uint64_t least_count_;
  size_t longest_piece_;
  std::vector<uint32_t> symbols_;
  std::vector<Word> words_;
  BpeSpec spec_;
  std::unordered_map<std::string, uint32_t> ids_;  ///< of pieces
  PairTable ranks_;
  std::vector<uint32_t> results_;
  BpeMerger merger_;
  PairTable pair_index_;
  std::vector<Pair> pairs_;
  std::vector<Run> runs_;
  std::vector<uint32_t> seen_in_;
  std::vector<Candidate> queue_;
  Side left_, right_;
  std::vector<uint32_t> again_;       ///< words to encode again
  std::vector<uint64_t> book_place_;  ///< scratch of book()
};

}  // namespace capstan
