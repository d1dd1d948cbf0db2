// What llama.cpp makes of a GGUF file of ours; compiled by convert_peers_product.py against a build of libllama.
//
//   llama_cpp_peer MODEL logits FILE ID...   all rows of logits of these tokens, f32, into FILE
//   llama_cpp_peer MODEL greedy COUNT ID...  the ids and the likeliest COUNT that follow
//   llama_cpp_peer MODEL ids                 the ids of the texts on standard input
#include <llama.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace {

using Ids = std::vector<llama_token>;

void check(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "llama_cpp_peer: %s\n", what);
  std::exit(1);
}

llama_context* make_context(llama_model* model) {
  llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = 64;
  parameters.n_threads = parameters.n_threads_batch = 1;
  parameters.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  parameters.type_k = parameters.type_v = GGML_TYPE_F32;
  llama_context* context = llama_init_from_model(model, parameters);
  check(context != nullptr, "no context");
  return context;
}

/// Logits after each of the tokens, which follow those that the context has seen.
std::vector<float> logits_of(llama_context* context, const llama_model* model, Ids& tokens) {
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  std::vector<float> rows;
  for (llama_token& token : tokens) {
    check(llama_decode(context, llama_batch_get_one(&token, 1)) == 0, "llama_decode failed");
    const float* row = llama_get_logits_ith(context, -1);
    rows.insert(rows.end(), row, row + vocabulary);
  }
  return rows;
}

void print_ids(const Ids& ids) {
  for (size_t i = 0; i < ids.size(); ++i) std::printf("%s%d", i ? " " : "", ids[i]);
  std::printf("\n");
}

void greedy(llama_model* model, Ids ids, int count) {
  llama_context* context = make_context(model);
  Ids fresh = ids;
  for (; count > 0; --count) {
    const std::vector<float> rows = logits_of(context, model, fresh);
    const auto begin = rows.end() - llama_vocab_n_tokens(llama_model_get_vocab(model));
    fresh = {static_cast<llama_token>(std::max_element(begin, rows.end()) - begin)};
    ids.push_back(fresh[0]);
  }
  print_ids(ids);
  llama_free(context);
}

void write_logits(llama_model* model, const char* path, Ids ids) {
  llama_context* context = make_context(model);
  const std::vector<float> rows = logits_of(context, model, ids);
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(rows.data()), static_cast<std::streamsize>(rows.size() * sizeof(float)));
  check(file.good(), "cannot write the logits");
  llama_free(context);
}

void print_ids_of(const llama_vocab* vocab, const std::string& text) {
  Ids ids(text.size() + 16);
  const int count = llama_tokenize(vocab, text.data(), static_cast<int>(text.size()), ids.data(),
                                   static_cast<int>(ids.size()), false, false);
  check(count >= 0, "too many tokens");
  ids.resize(static_cast<size_t>(count));
  print_ids(ids);
}

/// Texts end with a zero byte; a line of ids for each.
void print_ids_of_input(const llama_vocab* vocab) {
  for (std::string text; std::getline(std::cin, text, '\0');) print_ids_of(vocab, text);
}

}  // namespace

int main(int argc, char** argv) {
  check(argc >= 3, "wanted MODEL logits|greedy|ids ...");
  const std::string what = argv[2];
  const int first = what == "logits" || what == "greedy" ? 4 : 3;
  check(argc >= first, "wanted a file or a count");
  Ids ids;
  for (int i = first; i < argc; ++i) ids.push_back(std::atoi(argv[i]));
  llama_backend_init();
  llama_model_params parameters = llama_model_default_params();
  parameters.n_gpu_layers = 0;
  llama_model* model = llama_model_load_from_file(argv[1], parameters);
  check(model != nullptr, "the model cannot be loaded");
  if (what == "logits") write_logits(model, argv[3], ids);
  if (what == "greedy") greedy(model, ids, std::atoi(argv[3]));
  if (what == "ids") print_ids_of_input(llama_model_get_vocab(model));
  llama_model_free(model);
}
