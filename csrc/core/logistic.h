// softplus and its derivative, the sigmoid, once for every backend.
#pragma once
#include "macros.h"

namespace mi {

template <class Value>
struct Logistic {
  Value softplus, sigmoid;
};

// Of s = nats * score, from decay = e^{-|s|}, log1p_decay = log(1 + decay) and inverse = 1 / (1 + decay): exact where
// either result is tiny. Value: a number, or a vector of them.
template <class Value, class Scalar>
MI_HOST_DEVICE Logistic<Value> logistic(Value score, Scalar nats, Value decay, Value log1p_decay, Value inverse) {
  const Value zero = {};
  return {(score > zero ? score : zero) * nats + log1p_decay, score > zero ? inverse : decay * inverse};
}

}  // namespace mi
