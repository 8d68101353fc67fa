//! The memory allocator of the program: mimalloc, told to tidy up a little at a time, and soon.
//!
//! What one thread allocates and another frees comes back when its owner tidies up. Here that is
//! nearly everything: connections decode what is written, the folding thread frees it. mimalloc 3 has
//! a thread tidy up in every 10,000th allocation that is not served from a free list, which can be
//! after a million blocks: then one call of `malloc` took 60 to 90 ms, on a thread that serves
//! connections, and whoever had written there waited (found with ftrace and perf, docs/PROOF.md).
//!
//! Memory that nobody uses goes back to the system after a second, which under attack was up to 40 MiB
//! of blocks of a megabyte: the process took 255 to 279 MiB, and 229 to 239 since they go back at once
//! (`tests/proof/attacks.rs`). Batches of 100 cost up to a tenth more.

use std::ffi::c_long;

use libmimalloc_sys::{_mi_option_last, mi_option_get, mi_option_set, mi_option_t};

/// What is set, and to what, unless the environment says otherwise. The crate has no names for them.
const OPTIONS: [Setting; 2] = [
    // `mi_option_generic_collect` (`MIMALLOC_GENERIC_COLLECT`), in allocations; more often is not
    // possible.
    Setting { option: 34, default: 10_000, ours: 1_000 },
    // `mi_option_purge_delay` (`MIMALLOC_PURGE_DELAY`), in milliseconds.
    Setting { option: 15, default: 1_000, ours: 10 },
];
const _: () = assert!(_mi_option_last == 47, "other options: look up the numbers above");

/// An option of mimalloc 3.
struct Setting {
    option: mi_option_t,
    default: c_long,
    ours: c_long,
}

/// Has threads tidy up more often, and give back sooner, unless the environment says how. For the
/// start of a program: mimalloc's options are of no thread.
#[allow(unsafe_code, reason = "mimalloc's options have no safe interface")]
pub(crate) fn tidy_often() {
    for Setting { option, default, ours } in OPTIONS {
        // SAFETY: both take an integer and check that it is below the number of options; nothing
        // else reads or writes options while the only thread is this one.
        unsafe {
            if mi_option_get(option) == default {
                mi_option_set(option, ours);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options are those that they should be: each stands at its default, and what is set stays.
    #[test]
    fn the_options_are_those_that_are_meant() {
        #[allow(unsafe_code, reason = "mimalloc's options have no safe interface")]
        // SAFETY: takes an integer and checks that it is below the number of options.
        let read = |option| unsafe { mi_option_get(option) };
        for Setting { option, default, ours } in OPTIONS {
            assert!([default, ours].contains(&read(option)), "{option}: {}", read(option));
        }
        tidy_often();
        for Setting { option, ours, .. } in OPTIONS {
            assert_eq!(read(option), ours, "{option}");
        }
    }
}
