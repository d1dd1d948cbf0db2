#include "kernels/elementwise.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace capstan::kernels::reference {

void add(const AddArgs& args) {
  with_element(args.dtype, "add", [&]<typename T>(T) {
    for (int64_t first = 0; first < args.rows * args.count; first += args.count)
      for (int64_t i = 0; i < args.count; ++i)
        store(out<T>(args.y)[first + i], load(in<T>(args.a)[first + i]) + load(in<T>(args.b)[i]));
  });
}

void scale(const ScaleArgs& args) {
  with_element(args.dtype, "scale", [&]<typename T>(T) {
    const auto factor = Accumulation<T>(args.factor);
    for (int64_t i = 0; i < args.count; ++i) store(out<T>(args.y)[i], load(in<T>(args.x)[i]) * factor);
  });
}

void cast(const CastArgs& args) {
  with_element(args.from, "cast", [&]<typename From>(From) {
    with_element(args.to, "cast", [&]<typename To>(To) {
      for (int64_t i = 0; i < args.count; ++i) store(out<To>(args.y)[i], load(in<From>(args.x)[i]));
    });
  });
}

void not_finite(const NotFiniteArgs& args) { *args.flag = std::isfinite(*args.value) ? 0.0 : 1.0; }

void cache_append(const CacheAppendArgs& args) {
  with_element(args.dtype, "cache_append", [&]<typename T>(T) {
    for (int64_t b = 0; b < args.batch; ++b) {
      const int64_t start = args.key_lengths[b] - args.rows;
      if (start < 0 || start + args.rows > args.capacity) {
        throw std::out_of_range("cache_append: rows " + std::to_string(start) + " to " +
                                std::to_string(start + args.rows) + " of a cache of " + std::to_string(args.capacity));
      }
      std::copy_n(in<T>(args.x) + b * args.rows * args.width, args.rows * args.width,
                  out<T>(args.cache) + (b * args.capacity + start) * args.width);
    }
  });
}

}  // namespace capstan::kernels::reference
