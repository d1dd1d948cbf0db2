#include "io/corpus/ledger.h"

#include <fmt/format.h>

#include "core/error.h"
#include "io/corpus/json.h"

namespace capstan {
namespace {

std::string position_text(const SourcePosition& p) {
  return fmt::format(
      R"({{"epoch":{},"packing":"{}","block":{},"group_first":{},"group_blocks":{},"piece":{},"offset":{}}})", p.epoch,
      name_of(p.cut.packing), p.cut.block, p.group_first, p.group_blocks, p.piece, p.offset);
}

std::string source_text(const LedgerSource& s) {
  return fmt::format(
      R"({{"corpus":{},"name":{},"share":{},"packing":"{}","block":{},"blocks":{},"samples":{},"tokens":{},"start":{},"start_blocks":{}}})",
      json_quote(s.corpus), json_quote(s.name), s.share, name_of(s.cut.packing), s.cut.block, s.cut_blocks, s.samples,
      s.tokens, position_text(s.start), s.start_blocks);
}

SourceCut read_cut(const JsonObject& object) {
  const std::string packing = object.text("packing");
  for (const Packing known : {Packing::stream, Packing::best_fit})
    if (packing == name_of(known)) return {known, object.number("block")};
  throw Error::make(ExitCode::bad_data, "{}: \"packing\": wanted \"stream\" or \"best-fit\", got \"{}\"",
                    object.where(), packing);
}

LedgerSource read_source(const JsonObject& object) {
  LedgerSource source;
  source.corpus = object.text("corpus"), source.name = object.text("name");
  source.share = object.number("share"), source.cut = read_cut(object);
  source.samples = object.number("samples"), source.tokens = object.number("tokens");
  source.cut_blocks = object.number("blocks"), source.start_blocks = object.number("start_blocks");
  const JsonObject start = object.object("start");
  source.start = {start.number("epoch"),        read_cut(start),       start.number("group_first"),
                  start.number("group_blocks"), start.number("piece"), start.number("offset")};
  return source;
}

}  // namespace

std::string Ledger::to_json() const {
  std::string out = R"({"version":1,"segments":[)";
  for (const LedgerSegment& segment : segments) {
    out += fmt::format(R"({}{{"first":{},"stride":{},"request":{},"sources":[)", &segment == segments.data() ? "" : ",",
                       segment.first, segment.stride, json_quote(segment.request));
    for (const LedgerSource& source : segment.sources)
      out += (&source == segment.sources.data() ? "" : ",") + source_text(source);
    out += "]}";
  }
  return out + "]}";
}

Ledger Ledger::from_json(const std::string& text, const std::string& where) {
  const JsonValue value = parse_json(text, where);
  const JsonObject object(value, where);
  if (object.number("version") != 1)
    throw Error::make(ExitCode::bad_data, "{}: wanted a ledger of version 1, got {}", where, object.number("version"));
  Ledger ledger;
  for (const JsonValue& item : object.array("segments")) {
    const JsonObject one(item, fmt::format("{}: segment {}", where, ledger.segments.size()));
    LedgerSegment segment{one.number("first"), one.number("stride"), one.text("request"), {}};
    for (const JsonValue& source : one.array("sources")) segment.sources.push_back(read_source({source, one.where()}));
    const bool rises = ledger.segments.empty() || segment.first > ledger.segments.back().first;
    if (!rises || segment.stride == 0 || segment.sources.empty())
      throw Error::make(ExitCode::bad_data, "{}: first {}, stride {}, {} sources do not make sense", one.where(),
                        segment.first, segment.stride, segment.sources.size());
    ledger.segments.push_back(std::move(segment));
  }
  return ledger;
}

}  // namespace capstan
