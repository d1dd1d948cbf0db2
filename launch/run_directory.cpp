#include "launch/run_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "core/config/config_writer.h"
#include "core/error.h"
#include "io/file_system.h"
#include "kernels/optimizer.h"

namespace capstan {

namespace json = boost::json;

void RunDirectory::create() const {
  std::error_code error;
  std::filesystem::create_directories(checkpoints(), error);
  if (!error) std::filesystem::create_directories(flights(), error);
  if (error)
    throw Error::make(ExitCode::cannot_create, "cannot create run directory {}: {}; choose another run.dir",
                      path_.string(), error.message());
}

bool RunDirectory::lock() {
  const std::filesystem::path name = path_ / "run.lock";
  lock_ = FileDescriptor(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!lock_.valid())
    throw Error::make(ExitCode::cannot_create, "cannot create {}: {}", name.string(), std::strerror(errno));
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(lock_.get(), F_SETLK, &whole) == 0) return true;
  if (errno != EAGAIN && errno != EACCES) return false;
  const bool known = ::fcntl(lock_.get(), F_GETLK, &whole) == 0 && whole.l_type != F_UNLCK && whole.l_pid > 0;
  throw Error::make(ExitCode::cannot_create,
                    "another job trains in {}{}; wait until it has ended, or choose another run.dir", path_.string(),
                    known ? fmt::format(" (process {} of its host)", whole.l_pid) : "");
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
                                      {"loss_scale", loss_scale},
                                      {"good_steps", good_steps},
                                      {"tokens", tokens},
                                      {"blank_tokens", blank_tokens},
                                      {"tokenizer", tokenizer},
                                      {"corpus", corpus},
                                      {"config", config},
                                      {"numerics", numerics},
                                      {"weights_only", weights_only},
                                      {"ledger", json::parse(ledger.to_json())}});
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
    const json::object& object = value.as_object();
    if (const json::value* blank = object.if_contains("blank_tokens"))
      state.blank_tokens = blank->to_number<uint64_t>();
    if (const json::value* scale = object.if_contains("loss_scale")) {
      state.loss_scale = scale->to_number<double>(), state.good_steps = number("good_steps");
      if (!(state.loss_scale >= 0.0) || state.loss_scale > kernels::kLargestLossScale || state.good_steps < 0)
        throw std::range_error(fmt::format("loss_scale {} after {} good steps", state.loss_scale, state.good_steps));
    }
    if (const json::value* weights = object.if_contains("weights_only")) state.weights_only = weights->as_bool();
    if (const json::value* ledger = object.if_contains("ledger"))
      state.ledger = Ledger::from_json(json::serialize(*ledger), where + ": ledger");
    return state;
  } catch (const std::exception& error) {
    throw Error::make(ExitCode::bad_data,
                      "{}: the training state of this checkpoint cannot be read ({}); was it written by capstan train?",
                      where, error.what());
  }
}

}  // namespace capstan
