// The arithmetic of zoneout (Extras in params.h), for any value type.
#pragma once

#include "portable.h"

namespace fastrnn {

// A unit's new value, given its candidate and the fraction that it keeps of its old one.
template <class V>
FASTRNN_INLINE V zoned(V candidate, V kept, V old) {
  return candidate + kept * (old - candidate);
}

// Backward: takes from the gradient of the new value what passes straight through to the old one, and returns that.
template <class V>
FASTRNN_INLINE V take_kept(V kept, V& grad) {
  const V through = kept * grad;
  grad -= through;
  return through;
}

// What the candidate contributes to h, where all units keep the same share of their old value: divided by 1 - share,
// the candidate again. Of a unit that keeps all of it any candidate will do, since its gradient is 0. What is within
// h's rounding error is taken as 0, since relu's derivative jumps there.
template <class V, class A>
FASTRNN_INLINE V candidates_part(V h, V old, A share, A epsilon, A least_normal) {
  const V change = h - share * old, distance = change < 0 ? -change : change;
  const V size = h < 0 ? -h : h, least = V{} + least_normal;
  const V rounding = epsilon * (size < least ? least : size);
  return distance <= rounding ? V{} : change;
}

}  // namespace fastrnn
