#include "launch/run_directory.h"

#include <boost/json.hpp>

#include "core/config/config_writer.h"
#include "core/error.h"
#include "io/file_system.h"

namespace capstan {

namespace json = boost::json;

void RunDirectory::create() const {
  std::error_code error;
  std::filesystem::create_directories(checkpoints(), error);
  if (error)
    throw Error::make(ExitCode::cannot_create, "cannot create run directory {}: {}; choose another run.dir",
                      path_.string(), error.message());
}

void RunDirectory::write_config(const RunConfig& config) const {
  write_file_atomically(this->config(), write_effective(config));
}

std::string TrainingState::to_json() const {
  return json::serialize(json::object{{"step", step},
                                      {"samples", samples},
                                      {"updates", updates},
                                      {"bad_steps", bad_steps},
                                      {"bad_in_a_row", bad_in_a_row},
                                      {"tokens", tokens},
                                      {"tokenizer", tokenizer},
                                      {"corpus", corpus},
                                      {"config", config},
                                      {"numerics", numerics}});
}

TrainingState TrainingState::from_json(const std::string& text, const std::string& where) {
  try {
    const json::value value = json::parse(text);
    const auto number = [&](const char* key) { return value.at(key).to_number<int64_t>(); };
    const auto string = [&](const char* key) { return std::string(value.at(key).as_string()); };
    TrainingState state;
    state.step = number("step"), state.samples = static_cast<uint64_t>(number("samples")),
    state.updates = number("updates");
    state.bad_steps = number("bad_steps"), state.bad_in_a_row = number("bad_in_a_row");
    state.tokens = static_cast<uint64_t>(number("tokens"));
    state.tokenizer = string("tokenizer"), state.corpus = string("corpus");
    state.config = string("config"), state.numerics = string("numerics");
    return state;
  } catch (const std::exception& error) {
    throw Error::make(ExitCode::bad_data,
                      "{}: the training state of this checkpoint cannot be read ({}); was it written by capstan train?",
                      where, error.what());
  }
}

}  // namespace capstan
