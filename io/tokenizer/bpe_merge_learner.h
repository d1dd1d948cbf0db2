#pragma once
// BpeMergeLearner: the merges of a byte-level BPE from counted words. Each pair of neighbours knows its count and the
// words it was seen in; a merge visits only those words, counts the pairs that it makes and unmakes per neighbour, and
// books them once. The queue of pairs is lazy: an entry whose count has fallen since is put back when it comes up.
// The words always stand as the merges so far encode them. Tokens side by side in a word are also what their joined
// text alone is encoded to; therefore no two pairs make the same text, and a pair is never seen again after its merge:
// all its places are known when its newer half is made.

#include <functional>

#include "io/tokenizer/bpe_model.h"
#include "io/tokenizer/bpe_pair_table.h"
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
    uint64_t begin = 0;  ///< in seen_in_: the words it was seen in
    uint32_t size = 0;
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
  uint32_t add_pair(uint32_t left, uint32_t right, int64_t count, uint32_t words);
  void change(uint32_t left, uint32_t right, int64_t by);
  void propose(uint32_t pair);
  uint32_t best_pair();
  void merge(uint32_t pair);
  void merge_in_word(uint32_t word, const BpeSpec::Merge& merge);
  void book(Side& side, const BpeSpec::Merge& merge, bool left);

  uint64_t least_count_;
  size_t longest_piece_;
  std::vector<uint32_t> symbols_;
  std::vector<Word> words_;
  BpeSpec spec_;
  PairTable pair_index_;
  std::vector<Pair> pairs_;
  std::vector<uint32_t> seen_in_;
  std::vector<Candidate> queue_;
  Side left_, right_;
  std::vector<uint64_t> book_place_;  ///< scratch of book()
};

}  // namespace capstan
