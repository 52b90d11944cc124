#include "server/net/close_reason.h"

namespace cistern::net {
namespace {

constexpr CloseInfo kTable[] = {
#define CISTERN_CLOSE(enumerator, label, severity, text) {label, log::Level::severity, text},
#include "server/net/close_reason.def"
#undef CISTERN_CLOSE
};

}  // namespace

const CloseInfo& info(CloseReason reason) { return kTable[static_cast<std::size_t>(reason)]; }

}  // namespace cistern::net
