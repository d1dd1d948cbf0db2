#pragma once
// Program: the named plans of a run (train, evaluate, prefill, decode) over one set of parameters, with one arena: a
// persistent part shared by all plans and a transient part as large as the largest plan needs. Build it (persistent
// tensors, parameters, plans), allocate(), then run parts of plans through it. Inside run() nothing is allocated.

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/device_progress.h"
#include "core/error.h"
#include "core/host_mirrors.h"
#include "core/plan.h"
#include "core/recorder.h"

namespace capstan {

/// Nodes of one part that stand one behind the other in a replay; some of them communicate.
struct Stretch {
  size_t first = 0, last = 0;  ///< nodes of the plan, both in it
  int collectives = 0;
};

/// Whoever watches a step: timing by op, lock-step comparison, flight recorder. Off, it costs a predictable branch.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void before(const Plan& plan, size_t node) = 0;
  virtual void after(const Plan& plan, size_t node) = 0;
  /// Around the time for which computation stands still for a node of the lane that was posted before.
  virtual void waiting(const Plan&, size_t) {}
  virtual void waited(const Plan&, size_t) {}
  /// Whether it looks at every op for itself: on a device each is then run alone and finished. Else it sees what is
  /// replayed at once as one, as it is queued.
  virtual bool wants_every_op() const { return true; }
  /// In the place of before and after: all of these are queued by one call.
  virtual void replaying(const Plan& plan, const Stretch& nodes) { before(plan, nodes.first), after(plan, nodes.last); }
  /// These, or a wait for the one node of a lane, now stand in the device's stream, and this number behind them
  /// (Program::progress).
  virtual void queued(const Plan&, const Stretch&, uint64_t) {}
};

/// Which replay of a part.
struct Replay {
  int chunk = 0;            ///< of the pipeline
  int64_t microbatch = 0;   ///< tells the slot of its inputs and of what an earlier part left to it
  bool accumulate = false;  ///< gradients and loss add to what is there
  int level = 0;            ///< of the summation tree
  bool last = false;        ///< of this part and chunk in the step: gradients are whole behind it
};

class Program {
 public:
  Program(const Mesh& mesh, const Device& device, PlanOptions options);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  const Mesh& mesh() const { return mesh_; }
  const kernels::Backend& backend() const { return *device_.backend; }
  PersistentSpace& persistent() { return persistent_; }
  const PersistentSpace& persistent() const { return persistent_; }
  ParameterSet& parameters() { return parameters_; }
  const ParameterSet& parameters() const { return parameters_; }
  const PlanOptions& options() const { return options_; }
  /// For the plans added from here on.
  void set_windows(std::shared_ptr<const WindowPlan> windows) { options_.windows = std::move(windows); }

  Recorder recorder(RecorderOptions options) { return Recorder(mesh_, persistent_, parameters_, options); }
  /// Plans a recorded tape under a name. Throws Error(internal) for a second plan of one name. paths: what crosses
  /// between the stages of a pipeline in it, as the cut found them; collective when there are any. order: how its parts
  /// are replayed.
  const Plan& add(const std::string& name, Tape tape, const std::vector<ChannelSpec>& paths = {},
                  const ReplayOrder& order = {});
  const Plan& plan(const std::string& name) const;
  const std::map<std::string, Plan>& plans() const { return plans_; }

  size_t persistent_bytes() const;
  size_t transient_bytes() const;
  /// Lays out the persistent tensors and takes the arena. No plan may be added after it.
  void allocate();
  bool allocated() const { return arena_.bytes() > 0; }
  /// The arena: of the device, once it is allocated.
  void* memory() const { return arena_.data(); }
  size_t memory_bytes() const { return arena_.bytes(); }
  /// Address of a persistent tensor of this rank, in its device's memory; of one with copies, the copy of `microbatch`.
  /// What the lane touches is waited for.
  void* address(const std::string& name, int64_t microbatch = 0) const;
  void* address(int persistent_index, int64_t microbatch = 0) const;
  /// The same where plans live in the host's memory; elsewhere Error(internal).
  template <typename T>
  T* at(const std::string& name, int64_t microbatch = 0) const {
    CAPSTAN_CHECK(device_.runtime == nullptr, "{} lies in the device's memory", name);
    return static_cast<T*>(address(name, microbatch));
  }
  /// How the host reaches small tensors wherever they live: write() gives room for all of a tensor, which the caller
  /// fills before the next run; read() waits for what was queued. Either is good until the next run.
  template <typename T>
  T* write(const std::string& name, int64_t microbatch = 0) {
    return static_cast<T*>(write_bytes(name, microbatch));
  }
  template <typename T>
  const T* read(const std::string& name, int64_t microbatch = 0) const {
    return static_cast<const T*>(read_bytes(name, microbatch));
  }
  /// And large ones, part by part: fill(to, first, count) writes bytes [first, first + count) of `bytes` at `at`, an
  /// address of the device; visit(from, first, count) reads them.
  void put(void* at, size_t bytes, const std::function<void(void* to, size_t first, size_t count)>& fill);
  void get(const void* at, size_t bytes,
           const std::function<void(const void* from, size_t first, size_t count)>& visit) const;
  /// By one call, which needs as much memory of the host.
  void put_whole(void* at, size_t bytes, const std::function<void(void*)>& fill);
  void fill(const std::string& name, const std::function<void(void*)>& fill);
  bool on_device() const { return device_.runtime != nullptr; }
  /// Null where plans live in the host's memory.
  kernels::DeviceRuntime* runtime() const { return device_.runtime; }
  /// How far the device has come in what an observer was told of; null where plans live in the host's memory.
  std::shared_ptr<const DeviceProgress> progress() const { return progress_; }
  /// Returns when all that was queued is done.
  void finish() const;
  /// Address of any tensor of a plan (tests, observers).
  void* address(const Plan& plan, TensorId id) const;

  /// Replays the nodes of one part.
  void run(const std::string& plan, Part part, const Replay& replay = {});
  /// Waits for all that the lane still does.
  void settle() const;
  bool has(const std::string& plan, Part part, int level = 0, int chunk = 0) const;
  void observe(StepObserver* observer) { observer_ = observer; }

  /// Digest over all plans and the persistent layout: ranks compare it before the first step.
  std::string digest() const;
  /// Guard words after every persistent tensor and every buffer of one plan (made without reuse of memory, else a
  /// guard is another's data): fills them; names the first that changed, or nothing.
  void fill_guards(const std::string& plan);
  std::string find_broken_guard(const std::string& plan) const;

 private:
  /// An operand: where it lies for microbatch m is first + m % slots * stride.
  struct Operand {
    char* first = nullptr;
    size_t stride = 0;
    int slots = 1;
    void* at(int64_t microbatch) const {
      return first + (slots > 1 ? static_cast<size_t>(microbatch % slots) * stride : 0);
    }
  };
  struct BoundNode;
  /// Of a node of the lane.
  struct OnLane {
    BoundNode* node = nullptr;
    const Plan* plan = nullptr;
    uint64_t ticket = 0;         ///< of its last post
    int releases = 0, owed = 0;  ///< nodes that release it, and how many of them are still to come in this step
    bool posted = false;         ///< before its place was reached
  };
  struct BoundNode {
    size_t node = 0;
    const Bound* bound = nullptr;
    std::vector<void*> in, out;                ///< for the microbatch at hand
    std::vector<Operand> in_slots, out_slots;  ///< empty when no operand moves from microbatch to microbatch
    void* scratch = nullptr;
    Accumulate accumulate = Accumulate::never;
    OnLane* lane = nullptr;
    std::vector<OnLane*> waits, releases;
  };
  /// Which replays of a segment are alike: gradients are added to, and where what moves from microbatch to microbatch
  /// stands.
  using GraphKey = std::pair<bool, int64_t>;
  struct Graph {
    std::unique_ptr<kernels::DeviceGraph> graph;  ///< null: replayed once, op by op
    /// What its replay sends, over which group: counted while it was captured.
    std::vector<std::pair<Communicator*, CommunicationCount>> sent;
  };
  /// Nodes [first, last) between two places where others are waited for or handed work.
  struct Segment {
    size_t first = 0, last = 0;
    bool capturable = true;
    int64_t period = 1;  ///< microbatches after which all operands are where they were
    Stretch nodes;       ///< the same, as nodes of the plan
    std::map<GraphKey, Graph> graphs;
  };
  struct Sequence {
    const Plan* plan = nullptr;
    std::deque<BoundNode> nodes;  ///< the lane points at them
    std::vector<OnLane*> at_end;  ///< holds memory of the arena until it is done
    std::vector<Segment> segments;
  };
  using SequenceKey = std::tuple<std::string, Part, int, int>;  ///< level, chunk

  void link(const Plan& plan);
  void link_lane(const Plan& plan, const std::vector<BoundNode*>& nodes);
  // program_device.cpp
  void* write_bytes(const std::string& name, int64_t microbatch);
  const void* read_bytes(const std::string& name, int64_t microbatch) const;
  size_t index_of(const std::string& name) const;
  void find_segments(Sequence& sequence);
  bool captures() const;
  void replay(Sequence& sequence, Segment& segment, const Replay& replay);
  void replay_graph(Sequence& sequence, Segment& segment, const Replay& replay);
  void capture(Sequence& sequence, Segment& segment, const Replay& replay, Graph& to);
  std::vector<std::pair<Communicator*, CommunicationCount>> counts() const;
  void note_queued(const Plan& plan, const Stretch& nodes) const;
  void replay_nodes(Sequence& sequence, const Segment& segment, const Replay& replay);

  kernels::Stream stream() const { return device_.runtime ? device_.runtime->main_stream() : nullptr; }
  void execute(const Plan& plan, BoundNode& node, bool add);
  void post(OnLane& lane, bool add);
  void wait_for(const OnLane& lane) const;
  const OnLane& first_collective(const OnLane& lane) const;
  Operand operand(const Plan& plan, TensorId id) const;
  void each_guard(const std::string& plan, const std::function<bool(char*, size_t, const std::string&)>& visit) const;

  Mesh mesh_;
  Device device_;
  PlanOptions options_;
  PersistentSpace persistent_;
  ParameterSet parameters_;
  int exceptions_ = 0;  ///< under way when it was made
  std::map<std::string, Plan> plans_;
  std::vector<std::unique_ptr<Channels>> channels_;
  std::map<SequenceKey, Sequence> sequences_;
  std::deque<OnLane> on_lane_;
  const Plan* running_ = nullptr;
  std::vector<std::vector<const OnLane*>> lane_touches_;  ///< by persistent tensor without parent
  mutable uint64_t lane_posted_ = 0, lane_done_ = 0;
  Arena arena_;
  std::unique_ptr<HostMirrors> mirrors_;      ///< of a device with memory of its own
  std::shared_ptr<DeviceProgress> progress_;  ///< likewise
  char* transient_ = nullptr;
  StepObserver* observer_ = nullptr;
};

}  // namespace capstan
