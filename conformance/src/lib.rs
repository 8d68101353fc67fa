//! The conformance kit: a server built from the real one that plays faults on request, and a
//! catalogue of cases that a client of any language must survive.
//!
//! ```text
//!   runner ──► backend: the real server      (commits, deletions, restarts, older copies)
//!     │           ▲
//!     ├──► front ─┘  gRPC to the client; loses, repeats, swaps, damages what passes
//!     │       ▲
//!     └──► client: a program of any language (arguments in, JSON lines out)
//! ```
//! `README.md` has the contract of a client, `cases.json` the catalogue.

pub mod backend;
pub mod catalogue;
pub mod child;
pub mod distort;
pub mod doors;
pub mod faults;
pub mod front;
pub mod play;
pub mod report;
pub mod run;
pub mod seen;
pub mod stage;
pub mod truth;
pub mod writes;
