/* What holds of a stack's TCP between any two calls: counts that the code keeps are recomputed
 * here, lists and rings are walked. Ends the test where something does not. */
#ifndef ZEROHOP_TESTS_NET_INVARIANTS_H
#define ZEROHOP_TESTS_NET_INVARIANTS_H

#include "net/tcp.h"

void check_invariants(struct zh_net *net);

#endif
