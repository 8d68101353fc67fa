//! The attacks, and what each of them must have achieved to count as one.

/// An attack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attack {
    /// As `attacker` knows it.
    pub(crate) name: &'static str,
    /// What it must have done in any case, at least so often.
    pub(crate) did: &'static [(&'static str, u64)],
    /// What must have come of it when it had its time.
    pub(crate) came: &'static [(&'static str, u64)],
    /// Seconds after which that can be seen.
    pub(crate) seconds: u64,
    /// Whether newcomers are served meanwhile: not where all connections that there may be are taken.
    pub(crate) newcomers: bool,
}

/// Seconds that show what most attacks come to.
const SHORT: u64 = 5;

const fn attack(
    name: &'static str,
    did: &'static [(&'static str, u64)],
    came: &'static [(&'static str, u64)],
    seconds: u64,
) -> Attack {
    Attack { name, did, came, seconds, newcomers: true }
}

/// All of them.
pub(crate) const ALL: &[Attack] = &[
    attack("connections", &[("opened", 200)], &[("opened", 4_600), ("closed", 500)], SHORT),
    Attack {
        newcomers: false,
        ..attack("crowd", &[("opened", 200)], &[("opened", 4_600), ("closed", 500)], SHORT)
    },
    // The deadline to the first request is 10 s.
    attack("silent", &[("opened", 200)], &[("closed", 1_400)], 13),
    // A peer is asked after 20 s, and gone 10 s later.
    attack("half-open", &[("opened", 200)], &[("closed", 1_400)], 35),
    attack("random", &[("noises", 30)], &[("closed", 500)], SHORT),
    attack("pings", &[("frames", 5_000)], &[("frames", 100_000)], SHORT),
    attack("settings", &[("frames", 2_000)], &[("frames", 50_000)], SHORT),
    attack("priorities", &[("frames", 5_000)], &[("frames", 100_000)], SHORT),
    attack("window-updates", &[("frames", 5_000)], &[("frames", 200_000)], SHORT),
    attack("rapid-reset", &[("frames", 1_000)], &[("frames", 30_000)], SHORT),
    attack("made-resets", &[("frames", 1_000)], &[("closed", 10)], SHORT),
    attack("continuations", &[("frames", 500)], &[("closed", 10)], SHORT),
    attack("headers", &[("frames", 200)], &[("closed", 100)], SHORT),
    attack("empty-data", &[("frames", 5_000)], &[("closed", 100)], SHORT),
    attack("streams", &[("answered", 200)], &[("answered", 4_000), ("status 8", 200)], 12),
    attack("targets", &[("answered", 5)], &[("answered", 50), ("status 8", 50)], SHORT),
    attack("unread-pulls", &[("calls", 100)], &[("cut", 1)], 10),
    attack("unread-loads", &[("calls", 100)], &[("cut", 1)], 10),
    attack("slow-readers", &[("answered", 50)], &[("sips", 500)], SHORT),
    attack("uploads", &[("parts", 100)], &[("status 4", 50)], 13),
    attack("bombs", &[("calls", 5), ("status 12", 1)], &[("status 12", 50)], SHORT),
    attack("questions", &[("calls", 500)], &[("status 8", 1_000)], SHORT),
    attack("prefixes", &[("calls", 50), ("status 11", 10)], &[("status 11", 1_000)], SHORT),
    attack("empties", &[("calls", 2), ("status 3", 1)], &[("status 3", 20)], SHORT),
];
