"""What is timed of a request, and the columns of a histogram: integers that say how often a duration was seen.

Buckets are log-linear: each power of two from 1 us to 137 s is cut into 16 equal parts, so a bucket's middle is within
3.2 % of every value in it.
"""

PARTS_BITS = 4
FIRST_OCTAVE = 10  # 2**10 ns, just above 1 us
OCTAVES = 27
BUCKETS = 1 + (OCTAVES << PARTS_BITS)
"""Bucket 0 holds everything below 1.024 us, the last bucket everything above its lower edge."""
COUNT, TOTAL_NS, CARRY = BUCKETS, BUCKETS + 1, BUCKETS + 2
"""Behind the buckets: how many durations, and their sum, of which CARRY counts units of 2**CARRY_BITS ns."""
COLUMNS = BUCKETS + 3
CARRY_BITS = 62

STAGES = ("request", "queue", "compute_input", "compute_infer", "compute_output")


def edges_ns() -> list[int]:
    """Return the lower edge of each bucket, and the upper one of the last but for what is beyond."""
    parts = [((1 << PARTS_BITS) + part) << (octave + FIRST_OCTAVE - PARTS_BITS)
             for octave in range(OCTAVES) for part in range(1 << PARTS_BITS)]  # fmt: skip
    return [0, *parts, 1 << (FIRST_OCTAVE + OCTAVES)]


def bucket_of(duration_ns: int) -> int:
    """Return the bucket that counts `duration_ns`."""
    octave = duration_ns.bit_length() - 1
    if octave < FIRST_OCTAVE:
        return 0
    part = (duration_ns >> (octave - PARTS_BITS)) - (1 << PARTS_BITS)
    return min(BUCKETS - 1, 1 + ((octave - FIRST_OCTAVE) << PARTS_BITS) + part)
