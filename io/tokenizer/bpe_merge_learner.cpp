#include "io/tokenizer/bpe_merge_learner.h"

#include <algorithm>

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
    : least_count_(std::max<uint64_t>(1, least_count)),
      longest_piece_(longest_piece ? longest_piece : SIZE_MAX),
      merger_(ranks_, results_) {
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
  for (auto& [symbol, text] : bytes) {
    ids_.emplace(text, static_cast<uint32_t>(spec_.pieces.size()));
    spec_.pieces.push_back(std::move(text));
  }
}

void BpeMergeLearner::add_words(const WordCounter& words) {
  std::array<uint32_t, 256> ids;
  for (int byte = 0; byte < 256; ++byte) ids[byte] = ids_.at(std::string(1, static_cast<char>(byte)));
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
    const uint32_t index = pair_of(pair / kBytes, pair % kBytes);
    pairs_[index].count = counts[pair];
    at[pair] = add_run(pairs_[index], times[pair]);
    propose(index);
  }
  each([&](uint32_t pair, uint32_t word, bool first) {
    if (first) seen_in_[at[pair]++] = word;
  });
}

uint32_t BpeMergeLearner::pair_of(uint32_t left, uint32_t right) {
  uint32_t index = pair_index_.find(left, right);
  if (index != kNone) return index;
  index = static_cast<uint32_t>(pairs_.size());
  CAPSTAN_CHECK(index != kNone, "too many pairs");
  pairs_.push_back({left, right});
  pair_index_.put(left, right, index);
  return index;
}

/// Pairs too long to be merged are not kept.
void BpeMergeLearner::change(uint32_t left, uint32_t right, int64_t by) {
  const uint32_t index = pair_index_.find(left, right);
  if (index != kNone) pairs_[index].count += by;
}

uint64_t BpeMergeLearner::add_run(Pair& pair, uint32_t size) {
  const uint64_t begin = seen_in_.size();
  runs_.push_back({begin, size, pair.last_run});
  pair.last_run = static_cast<uint32_t>(runs_.size() - 1);
  seen_in_.resize(begin + size);
  return begin;
}

void BpeMergeLearner::propose(uint32_t index) {
  const Pair& pair = pairs_[index];
  if (pair.merged || pair.count < static_cast<int64_t>(least_count_)) return;
  queue_.push_back({pair.count, pair.left, pair.right, index});
  std::push_heap(queue_.begin(), queue_.end());
}

/// There is always an entry with at least the pair's count, so one with less may go.
uint32_t BpeMergeLearner::best_pair() {
  while (!queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end());
    const Candidate top = queue_.back();
    queue_.pop_back();
    const Pair& pair = pairs_[top.pair];
    if (pair.merged) continue;
    if (top.count == pair.count) return top.pair;
    if (top.count > pair.count) propose(top.pair);
  }
  return kNone;
}

/// Two pairs may make the same text; it is one piece.
uint32_t BpeMergeLearner::piece_for(uint32_t left, uint32_t right) {
  std::string text = spec_.pieces[left] + spec_.pieces[right];
  const auto [place, fresh] = ids_.emplace(text, static_cast<uint32_t>(spec_.pieces.size()));
  if (fresh) spec_.pieces.push_back(std::move(text));
  return place->second;
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
  const uint32_t left = pairs_[index].left, right = pairs_[index].right;
  const BpeSpec::Merge merge{left, right, piece_for(left, right)};
  ranks_.put(left, right, static_cast<uint32_t>(spec_.merges.size()));
  results_.push_back(merge.result);
  spec_.merges.push_back(merge);
  pairs_[index].merged = true;
  for (uint32_t run = pairs_[index].last_run; run != kNone; run = runs_[run].before)
    for (uint64_t i = runs_[run].begin; i < runs_[run].begin + runs_[run].size; ++i) merge_in_word(seen_in_[i], merge);
  book(left_, merge, true);
  book(right_, merge, false);
  pairs_[index].count = 0;
  std::sort(again_.begin(), again_.end());
  again_.erase(std::unique(again_.begin(), again_.end()), again_.end());
  for (const uint32_t word : again_) encode_again(word);
  again_.clear();
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
    const uint32_t index = pair_of(first, second);
    pairs_[index].count += side.more[neighbour];
    place[neighbour] = add_run(pairs_[index], side.times[neighbour]);
    propose(index);
    if (pairs_[index].merged) side.fewer[neighbour] = -1;  // from here on: its words are to be encoded again
  }
  for (const auto& [neighbour, word] : side.seen) {
    if (place[neighbour] == UINT64_MAX) continue;
    seen_in_[place[neighbour]++] = word;
    if (side.fewer[neighbour] < 0) again_.push_back(word);
  }
  side.clear();
}

/// A merge made a pair that has a rank already, so the word would now be encoded another way (rare: two pairs with the
/// same text are needed).
void BpeMergeLearner::encode_again(uint32_t index) {
  Word& word = words_[index];
  uint32_t* symbols = symbols_.data() + word.begin;
  const auto count = static_cast<int64_t>(word.count);
  std::vector<uint32_t> bytes, tokens;
  for (uint32_t i = 0; i < word.size; ++i) {
    if (i > 0) change(symbols[i - 1], symbols[i], -count);
    for (const char c : spec_.pieces[symbols[i]]) bytes.push_back(ids_.at(std::string(1, c)));
  }
  merger_.merge(bytes, tokens);
  std::copy(tokens.begin(), tokens.end(), symbols);
  word.size = static_cast<uint32_t>(tokens.size());
  for (size_t i = 1; i < tokens.size(); ++i) {
    if (spec_.pieces[tokens[i - 1]].size() + spec_.pieces[tokens[i]].size() > longest_piece_) continue;
    const uint32_t pair = pair_of(tokens[i - 1], tokens[i]);
    pairs_[pair].count += count;
    seen_in_[add_run(pairs_[pair], 1)] = index;
    propose(pair);
  }
}

}  // namespace capstan
