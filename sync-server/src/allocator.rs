//! The memory allocator of the program: mimalloc, told to tidy up a little at a time.
//!
//! What one thread allocates and another frees comes back when its owner tidies up. Here that is
//! nearly everything: connections decode what is written, the folding thread frees it. mimalloc 3 has
//! a thread tidy up in every 10,000th allocation that is not served from a free list, which can be
//! after a million blocks: then one call of `malloc` took 60 to 90 ms, on a thread that serves
//! connections, and whoever had written there waited (found with ftrace and perf, docs/PROOF.md).

use std::ffi::c_long;

use libmimalloc_sys::{_mi_option_last, mi_option_get, mi_option_set, mi_option_t};

/// `mi_option_generic_collect` of mimalloc 3: the crate has no name for it.
const GENERIC_COLLECT: mi_option_t = 34;
const _: () = assert!(_mi_option_last == 47, "other options: look up the number above");

/// What mimalloc does by itself.
const DEFAULT: c_long = 10_000;

/// What it looks at in every 1,000th such allocation; more often is not possible.
const EVERY: c_long = 1_000;

/// Has threads tidy up more often, unless the environment says how often
/// (`MIMALLOC_GENERIC_COLLECT`). For the start of a program: mimalloc's options are of no thread.
#[allow(unsafe_code, reason = "mimalloc's options have no safe interface")]
pub(crate) fn tidy_often() {
    // SAFETY: both take an integer and check that it is below the number of options; nothing else
    // reads or writes options while the only thread is this one.
    unsafe {
        if mi_option_get(GENERIC_COLLECT) == DEFAULT {
            mi_option_set(GENERIC_COLLECT, EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The option is the one that it should be: it stands at its default, and what is set stays.
    #[test]
    fn the_option_is_the_one_that_is_meant() {
        #[allow(unsafe_code, reason = "mimalloc's options have no safe interface")]
        // SAFETY: takes an integer and checks that it is below the number of options.
        let read = || unsafe { mi_option_get(GENERIC_COLLECT) };
        assert!([DEFAULT, EVERY].contains(&read()), "{}", read());
        tidy_often();
        assert_eq!(read(), EVERY);
    }
}
