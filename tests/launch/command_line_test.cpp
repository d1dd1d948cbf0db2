// label: plan
#include "launch/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "core/config/keys.h"
#include "core/config/presets.h"
#include "core/error.h"
#include "launch/reference_page.h"

namespace capstan {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Outcome {
  int code = -1;
  std::string out, err;
};

Outcome run(std::vector<const char*> words) {
  words.insert(words.begin(), "capstan");
  std::ostringstream out, err;
  Outcome outcome;
  testing::internal::CaptureStdout();
  outcome.code = run_command_line(static_cast<int>(words.size()), words.data(), out, err);
  std::fflush(stdout);
  outcome.out = testing::internal::GetCapturedStdout() + out.str();
  outcome.err = err.str();
  return outcome;
}

TEST(CommandLine, HelpAndVersion) {
  EXPECT_EQ(run({"--help"}).code, 0);
  EXPECT_THAT(run({"--help"}).out, HasSubstr("doctor"));
  for (const char* verb : {"config", "doctor"}) {
    const Outcome help = run({verb, "--help"});
    EXPECT_EQ(help.code, 0) << verb;
    EXPECT_THAT(help.out, HasSubstr("Examples:")) << verb;
    EXPECT_EQ(help.err, "") << verb;
  }
  const Outcome version = run({"--version"});
  EXPECT_EQ(version.code, 0);
  for (const char* part : {"capstan ", "compiler", "instruction set", "oneDNN", "HDF5", "MPI"})
    EXPECT_THAT(version.out, HasSubstr(part));
}

TEST(CommandLine, UsageMistakesAre64WithAHint) {
  EXPECT_EQ(run({}).code, 64);
  EXPECT_THAT(run({}).err, HasSubstr("Subcommands"));
  const Outcome slip = run({"doctr"});
  EXPECT_EQ(slip.code, 64);
  EXPECT_THAT(slip.err, HasSubstr("unknown verb 'doctr'; did you mean doctor?"));
  EXPECT_EQ(run({"zzzzzz"}).code, 64);
  const Outcome option = run({"doctor", "--nope"});
  EXPECT_EQ(option.code, 64);
  EXPECT_THAT(option.err, HasSubstr("run capstan doctor --help"));
  EXPECT_EQ(run({"--nope"}).code, 64);
}

TEST(CommandLine, UsageMistakesInTheVerbOfAVerbNameTheWordAndItsOwnHelp) {
  const struct {
    std::vector<const char*> words;
    const char* message;
  } cases[] = {
      {{"corpus", "bild"}, "unknown verb 'corpus bild'; did you mean build?\nrun capstan corpus --help"},
      {{"tokenizer", "trian", "x"},
       "unknown verb 'tokenizer trian'; did you mean train?\nrun capstan tokenizer --help"},
      {{"bench", "stpe"}, "unknown verb 'bench stpe'; did you mean step?\nrun capstan bench --help"},
      {{"corpus", "zzzzzz"}, "unknown verb 'corpus zzzzzz'\n"},
      {{"corpus", "build", "text"}, "run capstan corpus build --help"},  // --out is missing
      {{"corpus"}, "run capstan corpus --help"},
  };
  for (const auto& [words, message] : cases) {
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.code, 64) << message;
    EXPECT_THAT(outcome.err, HasSubstr(message));
  }
}

TEST(CommandLine, ConfigVerb) {
  EXPECT_THAT(run({"config"}).out, HasSubstr("[optimizer]"));
  EXPECT_EQ(run({"config", "--markdown"}).out, reference_page());
  EXPECT_THAT(run({"config", "--presets"}).out, HasSubstr("124,439,808"));
  EXPECT_EQ(run({"config", "/no/such/file.toml"}).code, 66);

  const std::string path =
      std::filesystem::temp_directory_path() / ("capstan_command_line_" + std::to_string(::getpid()) + ".toml");
  std::ofstream(path) << "[train]\nsteps = 3\n";
  const Outcome good = run({"config", path.c_str(), "train.seed=9"});
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_THAT(good.out, HasSubstr("steps = 3\n"));
  EXPECT_THAT(good.out, HasSubstr("seed = 9\n"));
  const Outcome bad = run({"config", path.c_str(), "train.sed=9"});
  EXPECT_EQ(bad.code, 78);
  EXPECT_THAT(bad.err, StartsWith("capstan: error: 1 mistake in the configuration:\n  command line: train.sed"));
  EXPECT_EQ(bad.out, "");
  std::filesystem::remove(path);
}

TEST(CommandLine, FailuresKeepTheirCode) {
  const auto reported = [](auto thrown) {
    std::ostringstream err;
    int code = 0;
    try {
      throw thrown;
    } catch (...) {
      code = report_failure(err);
    }
    return std::pair(code, err.str());
  };
  EXPECT_EQ(reported(Error(ExitCode::numerical, "loss is NaN")),
            std::pair(79, std::string("capstan: error: loss is NaN\n")));
  EXPECT_EQ(reported(std::runtime_error("odd")).first, 70);
  EXPECT_EQ(reported(std::bad_alloc()).first, 70);
  const auto full = reported(std::system_error(ENOSPC, std::generic_category(), "cannot write to file"));
  EXPECT_EQ(full.first, 74);
  EXPECT_THAT(full.second, HasSubstr("No space left on device"));
  setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
  setenv("OMPI_COMM_WORLD_RANK", "1", 1);
  EXPECT_THAT(reported(Error(ExitCode::io_error, "x")).second, StartsWith("capstan[rank 1]: error: x"));
  unsetenv("OMPI_COMM_WORLD_SIZE");
  unsetenv("OMPI_COMM_WORLD_RANK");
}

TEST(ReferencePage, HasEveryKeyAndPreset) {
  const std::string page = reference_page(), listing = key_listing();
  for (const Key& key : config_keys()) {
    EXPECT_THAT(page, HasSubstr("| `" + key.name + "` |"));
    EXPECT_THAT(listing, HasSubstr("  " + key.leaf() + " "));
  }
  for (const std::string& name : preset_names()) EXPECT_THAT(page, HasSubstr("| `" + name + "` |"));
}

TEST(ReferencePage, DocsAreUpToDate) {
  const char* source = std::getenv("CAPSTAN_SOURCE");
  if (!source) GTEST_SKIP() << "CAPSTAN_SOURCE is not set";
  std::ifstream in(std::filesystem::path(source) / "docs/config.md");
  std::ostringstream text;
  text << in.rdbuf();
  EXPECT_EQ(text.str(), reference_page()) << "make it again: capstan config --markdown > docs/config.md";
}

}  // namespace
}  // namespace capstan
