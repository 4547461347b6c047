// call: a body that asks for tokens, on its way through the pool to the engine.
#pragma once
#include "coordinator/door/exchange.h"

struct call;

// Asks what the route's api is for.
void call_api(struct exchange *x);
// The exchange is gone: the pool finishes for nobody.
void call_abandon(struct call *c);
// Waits until no job looks at the engine's model any more; there must be no new ones.
void call_wait_all(struct door *d);
