#include "cluster/lab/slurm.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace capstan {

std::string shell_quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

namespace {

constexpr double kMargin = 1.5;  // of the time limit over the forecast

std::string job_name(const std::string& name) {
  std::string out;
  for (const char c : name) out += std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ? c : '-';
  return out;
}

/// Part of the script that submits one wave; the job's own script follows as a here-document.
std::string wave_text(const SweepSpec& spec, size_t wave, size_t runs, double longest, const std::string& binary,
                      const std::string& sweep, const std::string& folder) {
  const auto minutes = static_cast<int64_t>(std::ceil(longest * kMargin / 60)) + 5;
  std::string settings;
  for (const std::string& item : spec.base_settings) settings += " " + shell_quoted(item);
  return fmt::format(
      "\n# wave {0}: {1} runs\n"
      "job=$(\"${{SBATCH:-sbatch}}\" --parsable --job-name={2}-{0} --array=0-{3} --ntasks={4} --cpus-per-task={5} \\\n"
      "  --time={6} --requeue --signal=B:USR1@120 --output={7}/%A_%a.log ${{after:+--dependency=afterany:$after}} \\\n"
      "  \"$@\" <<'END_OF_JOB'\n"
      "#!/bin/bash\n"
      "id=$(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {8})\n"
      "{9} sweep {10} --run \"$id\"{11} &\n"
      "trap 'kill -USR1 $!' USR1 TERM\n"
      "wait $!; code=$?\n"
      "while [ $code -gt 128 ]; do wait $!; code=$?; done\n"
      "[ $code -eq 75 ] && scontrol requeue \"${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID\" && sleep 30\n"
      "exit $code\n"
      "END_OF_JOB\n"
      ")\n"
      "echo \"wave {0}: {1} runs as job $job\"\n"
      "after=$job\n",
      wave, runs, job_name(spec.name), runs - 1, spec.ranks, spec.threads, minutes, shell_quoted(folder),
      shell_quoted(fmt::format("{}/wave-{}.txt", folder, wave)), shell_quoted(binary), shell_quoted(sweep), settings);
}

}  // namespace

SlurmFiles slurm_files(const SweepSpec& spec, const SweepPlan& plan, const std::vector<double>& seconds,
                       const std::string& binary, const std::string& sweep, const std::string& folder,
                       const std::string& work) {
  SlurmFiles files;
  files.submit = fmt::format(
      "#!/bin/bash\n"
      "# Submits sweep {} to Slurm: one job array for each wave, chained. Arguments go to every sbatch, for instance\n"
      "#   submit.sh --partition=gpu --account=me        SBATCH=echo submit.sh shows what would be submitted\n"
      "set -euo pipefail\n"
      "cd {}\n"
      "after=\n",
      job_name(spec.name), shell_quoted(work));
  int last = 0;
  for (const PlannedRun& run : plan.runs) last = std::max(last, run.wave);
  for (int wave = 0; wave <= last; ++wave) {
    std::string list;
    size_t runs = 0;
    double longest = 0;
    for (size_t i = 0; i < plan.runs.size(); ++i) {
      if (plan.runs[i].wave != wave) continue;
      list += plan.runs[i].id + "\n";
      longest = std::max(longest, i < seconds.size() ? seconds[i] : 0);
      ++runs;
    }
    files.waves.push_back(list);
    if (runs > 0) files.submit += wave_text(spec, static_cast<size_t>(wave), runs, longest, binary, sweep, folder);
  }
  return files;
}

}  // namespace capstan
