#include "io/tokenizer/bpe_merge_learner.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "io/tokenizer/byte_symbols.h"

namespace capstan {
namespace {

// Longer words are taken in parts: a merge walks through each word that has the pair, and no text needs longer ones.
constexpr size_t kLongestPart = 1024;

bool is_inside_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

size_t part_size(std::string_view word) {
  if (word.size() <= kLongestPart) return word.size();
  size_t size = kLongestPart;
  while (size > kLongestPart - 4 && is_inside_character(word[size])) --size;
  return size;
}

}  // namespace

void BpeMergeLearner::Side::touch(uint32_t neighbour) {
  if (neighbour >= times.size()) {
    const size_t size = std::max<size_t>(neighbour + 1, 2 * times.size());
    fewer.resize(size);
    more.resize(size);
    times.resize(size);
  }
  if (times[neighbour]++ == 0) neighbours.push_back(neighbour);
}

void BpeMergeLearner::Side::add(uint32_t neighbour, uint32_t word, int64_t count) {
  touch(neighbour);
  more[neighbour] += count;
  seen.push_back({neighbour, word});
}

void BpeMergeLearner::Side::clear() {
  for (const uint32_t neighbour : neighbours) fewer[neighbour] = more[neighbour] = times[neighbour] = 0;
  neighbours.clear();
  seen.clear();
}

BpeMergeLearner::BpeMergeLearner(const WordCounter& words, uint64_t least_count, size_t longest_piece)
    : least_count_(std::max<uint64_t>(1, least_count)), longest_piece_(longest_piece ? longest_piece : SIZE_MAX) {
  add_bytes();
  add_words(words);
  count_first_pairs();
}

/// In the order of their printable symbols, which is how GPT-2 numbers them.
void BpeMergeLearner::add_bytes() {
  std::vector<std::pair<std::string, std::string>> bytes;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    bytes.emplace_back(to_byte_symbols(text), text);
  }
  std::sort(bytes.begin(), bytes.end());  // UTF-8 sorts as code points do
  spec_.byte_level = true;
  for (auto& [symbol, text] : bytes) spec_.pieces.push_back(std::move(text));
}

void BpeMergeLearner::add_words(const WordCounter& words) {
  std::array<uint32_t, 256> ids;
  for (uint32_t id = 0; id < 256; ++id) ids[static_cast<unsigned char>(spec_.pieces[id][0])] = id;
  symbols_.reserve(words.bytes());
  words_.reserve(words.size());
  words.each([&](std::string_view word, uint64_t count) {
    while (!word.empty()) {
      const size_t size = part_size(word);
      words_.push_back({symbols_.size(), count, static_cast<uint32_t>(size)});
      for (const char c : word.substr(0, size)) symbols_.push_back(ids[static_cast<unsigned char>(c)]);
      word.remove_prefix(size);
    }
  });
  CAPSTAN_CHECK(words_.size() < kNone, "{} distinct words", words_.size());
}

void BpeMergeLearner::count_first_pairs() {
  if (longest_piece_ < 2) return;
  constexpr uint32_t kBytes = 256;
  std::vector<int64_t> counts(kBytes * kBytes);
  std::vector<uint32_t> times(kBytes * kBytes), last(kBytes * kBytes, kNone);
  std::vector<uint64_t> at(kBytes * kBytes);
  const auto each = [&](const auto& visit) {
    std::fill(last.begin(), last.end(), kNone);
    for (uint32_t word = 0; word < words_.size(); ++word)
      for (uint64_t i = words_[word].begin; i + 1 < words_[word].begin + words_[word].size; ++i) {
        const uint32_t pair = symbols_[i] * kBytes + symbols_[i + 1];
        visit(pair, word, last[pair] != word);
        last[pair] = word;
      }
  };
  each([&](uint32_t pair, uint32_t word, bool first) {
    counts[pair] += static_cast<int64_t>(words_[word].count);
    times[pair] += first;
  });
  for (uint32_t pair = 0; pair < counts.size(); ++pair) {
    if (counts[pair] == 0) continue;
    at[pair] = pairs_[add_pair(pair / kBytes, pair % kBytes, counts[pair], times[pair])].begin;
  }
  each([&](uint32_t pair, uint32_t word, bool first) {
    if (first) seen_in_[at[pair]++] = word;
  });
}

/// The words are filled in by the caller.
uint32_t BpeMergeLearner::add_pair(uint32_t left, uint32_t right, int64_t count, uint32_t words) {
  const auto index = static_cast<uint32_t>(pairs_.size());
  CAPSTAN_CHECK(index != kNone, "too many pairs");
  pairs_.push_back({left, right, count, seen_in_.size(), words});
  seen_in_.resize(seen_in_.size() + words);
  pair_index_.put(left, right, index);
  propose(index);
  return index;
}

/// Pairs too long to be merged are not kept.
void BpeMergeLearner::change(uint32_t left, uint32_t right, int64_t by) {
  const uint32_t index = pair_index_.find(left, right);
  if (index != kNone) pairs_[index].count += by;
}

void BpeMergeLearner::propose(uint32_t index) {
  const Pair& pair = pairs_[index];
  if (pair.count < static_cast<int64_t>(least_count_)) return;
  queue_.push_back({pair.count, pair.left, pair.right, index});
  std::push_heap(queue_.begin(), queue_.end());
}

uint32_t BpeMergeLearner::best_pair() {
  while (!queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end());
    const Candidate top = queue_.back();
    queue_.pop_back();
    if (top.count == pairs_[top.pair].count) return top.pair;
    propose(top.pair);
  }
  return kNone;
}

BpeSpec BpeMergeLearner::learn(uint32_t pieces, const std::function<void(uint32_t, uint32_t)>& progress) {
  constexpr uint32_t kReportEvery = 256;
  while (spec_.pieces.size() < pieces) {
    const uint32_t pair = best_pair();
    if (pair == kNone) break;
    merge(pair);
    if (progress && spec_.merges.size() % kReportEvery == 0)
      progress(static_cast<uint32_t>(spec_.pieces.size()), pieces);
  }
  return std::move(spec_);
}

void BpeMergeLearner::merge(uint32_t index) {
  const Pair pair = pairs_[index];
  const BpeSpec::Merge merge{pair.left, pair.right, static_cast<uint32_t>(spec_.pieces.size())};
  spec_.merges.push_back(merge);
  spec_.pieces.push_back(spec_.pieces[pair.left] + spec_.pieces[pair.right]);
  for (uint64_t i = pair.begin; i < pair.begin + pair.size; ++i) merge_in_word(seen_in_[i], merge);
  book(left_, merge, true);
  book(right_, merge, false);
}

void BpeMergeLearner::merge_in_word(uint32_t index, const BpeSpec::Merge& merge) {
  Word& word = words_[index];
  uint32_t* symbols = symbols_.data() + word.begin;
  const auto count = static_cast<int64_t>(word.count);
  uint32_t to = 0;
  bool just_merged = false;  // the symbol before is of this very pass
  for (uint32_t from = 0; from < word.size;) {
    if (symbols[from] != merge.left || from + 1 == word.size || symbols[from + 1] != merge.right) {
      symbols[to++] = symbols[from++];
      just_merged = false;
      continue;
    }
    if (just_merged) {  // what was booked as (result, left) is (result, result)
      right_.more[merge.left] -= count;
      left_.add(merge.result, index, count);
    } else if (to > 0) {
      left_.add(symbols[to - 1], index, count);
      left_.fewer[symbols[to - 1]] += count;
    }
    if (from + 2 < word.size) {
      right_.add(symbols[from + 2], index, count);
      right_.fewer[symbols[from + 2]] += count;
    }
    symbols[to++] = merge.result;
    from += 2;
    just_merged = true;
  }
  word.size = to;
}

void BpeMergeLearner::book(Side& side, const BpeSpec::Merge& merge, bool left) {
  std::vector<uint64_t>& place = book_place_;
  place.resize(std::max(place.size(), side.times.size()));
  for (const uint32_t neighbour : side.neighbours) {
    const uint32_t first = left ? neighbour : merge.result, second = left ? merge.result : neighbour;
    if (side.fewer[neighbour] != 0)
      change(left ? neighbour : merge.right, left ? merge.left : neighbour, -side.fewer[neighbour]);
    place[neighbour] = UINT64_MAX;
    if (side.more[neighbour] == 0 || spec_.pieces[first].size() + spec_.pieces[second].size() > longest_piece_)
      continue;
    place[neighbour] = pairs_[add_pair(first, second, side.more[neighbour], side.times[neighbour])].begin;
  }
  for (const auto& [neighbour, word] : side.seen)
    if (place[neighbour] != UINT64_MAX) seen_in_[place[neighbour]++] = word;
  side.clear();
}

}  // namespace capstan
