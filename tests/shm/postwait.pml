/*
 * The post/wait pair of transport/shm: can a waiter sleep through a record?
 *
 * Stores go through buffers that drain at any later time, each location on its own, but for what a
 * release orders (record before head) and a fence empties: weaker than x86. A lost wake-up is a
 * state in which nobody can move and the waiter has not got everything; spin reports it as an
 * invalid end state.
 *
 * The first half is zh_link_post against zh_pump_arm, zh_pump_events and zh_pump_disarm, with two
 * posters: of one link (under its lock), or, with TWO_LINKS, each of its own. The second half, with
 * SPACE, is zh_link_flush against a poster that waits for space in its ring.
 *
 * NO_POST_FENCE, NO_ARM_FENCE, NO_DISARM_FENCE and RING_ONLY_SLEEPERS each leave out what must not
 * be left out.
 */

#define ODD(epoch) ((epoch) % 2 == 1)

byte epoch;             /* of the waiter's pump, as others see it */
chan epochs = [2] of { byte }; /* ... on its way there */
byte rings;             /* bells rung: edges of the waiter's eventfd */

inline set_epoch(value) { epochs!value }
inline fence_waiter() { empty(epochs) }

active proctype waiters_buffer()
{
end:
    do
    :: atomic { nempty(epochs) -> epochs?epoch }
    od
}

#ifndef SPACE

#define POSTERS 2
#ifdef TWO_LINKS
#define LINKS 2
#define LINK(p) (p)
#define RECORDS(p) (2 - (p))
#define TOTAL 3
#else
#define LINKS 1
#define LINK(p) 0
#define RECORDS(p) 2
#define TOTAL 4
#endif

byte record[LINKS], head[LINKS]; /* as the waiter sees them; a record holds its number */
byte posted[LINKS], rung[LINKS]; /* under the link's lock */
bool locked[LINKS];
bool record_waits[POSTERS], head_waits[POSTERS]; /* stores on their way */
byte record_value[POSTERS], head_value[POSTERS];

inline poster_fence(p) { !record_waits[p] && !head_waits[p] }

proctype posters_buffer(byte p)
{
end:
    do
    :: atomic { record_waits[p] -> record[LINK(p)] = record_value[p]; record_waits[p] = false }
    /* Released: not before the record. */
    :: atomic { head_waits[p] && !record_waits[p] -> head[LINK(p)] = head_value[p];
                head_waits[p] = false }
    od
}

proctype poster(byte p)
{
    byte n, seen;

    do
    :: n == RECORDS(p) -> break
    :: else ->
        atomic { !locked[LINK(p)] -> locked[LINK(p)] = true }
        posted[LINK(p)]++;
        atomic { record_value[p] = posted[LINK(p)]; record_waits[p] = true }
        atomic { head_value[p] = posted[LINK(p)]; head_waits[p] = true }
#ifndef NO_POST_FENCE
        poster_fence(p);
#endif
        seen = epoch;
        if
        :: ODD(seen) && seen != rung[LINK(p)] -> rung[LINK(p)] = seen; rings++
        :: else
        fi;
        poster_fence(p); /* the unlocking releases */
        locked[LINK(p)] = false;
        n++
    od
}

active proctype waiter()
{
    byte got, heard, own, l, h, spurious;
    byte tail[LINKS];
    bool ready;

    atomic {
        run posters_buffer(0); run posters_buffer(1);
        run poster(0); run poster(1)
    }
    do
    :: got == TOTAL -> break
    :: else ->
        l = 0; /* poll: take what is there */
        do
        :: l == LINKS -> break
        :: else ->
            h = head[l];
            if
            :: h != tail[l] ->
                tail[l]++;
                got++;
                assert(record[l] >= tail[l]) /* it was there before its head */
            :: else
            fi;
            l++
        od;
        if
        :: rings != heard -> heard = rings /* events may be collected without sleeping */
        :: skip
        fi;
        own++; /* zh_pump_arm */
        assert(ODD(own));
        set_epoch(own);
#ifndef NO_ARM_FENCE
        fence_waiter();
#endif
        ready = got == TOTAL; /* the test is over: it need not sleep any more */
        l = 0;
        do
        :: l == LINKS -> break
        :: else -> h = head[l]; ready = ready || h != tail[l]; l++
        od;
        if
        :: ready
        :: else ->
            if /* sleep */
            :: atomic { rings != heard -> heard = rings }
            :: spurious < 1 -> spurious++ /* woken for another reason */
            fi
        fi;
        own++; /* zh_pump_disarm; its fence is for SPACE only */
        set_epoch(own)
    od
}

#else /* SPACE */

#define FLUSHES 3 /* the poster needs all of them */

byte tail, want;
bool tail_waits, want_waits;
byte tail_value;

active proctype other_buffers()
{
end:
    do
    :: atomic { tail_waits -> tail = tail_value; tail_waits = false }
    :: atomic { want_waits -> want = 1; want_waits = false }
    od
}

active proctype consumer() /* zh_link_flush, under the link's lock */
{
    byte n, seen, rung;

    do
    :: n == FLUSHES -> break
    :: else ->
        n++;
        !tail_waits; /* one location: in order */
        atomic { tail_value = n; tail_waits = true }
        !tail_waits; /* fence */
        if
        :: want == 0
        :: else ->
            seen = epoch;
            if
            :: ODD(seen) && seen != rung -> rung = seen; rings++
#ifndef RING_ONLY_SLEEPERS
            :: !ODD(seen) -> rung = seen; rings++
#endif
            :: else
            fi
        fi
    od
}

active proctype waiting_poster()
{
    byte own, heard;

    want_waits = true; /* zh_link_want */
    !want_waits;       /* its fence */
    do
    :: tail == FLUSHES -> break
    :: else ->
        own++; /* zh_pump_arm: looks at heads, of which there are none */
        set_epoch(own);
        fence_waiter();
        atomic { rings != heard -> heard = rings }
        own++;
        set_epoch(own);
#ifndef NO_DISARM_FENCE
        fence_waiter()
#endif
    od
}

#endif
