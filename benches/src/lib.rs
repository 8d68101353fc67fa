//! The pure half of the benchmark: what samples come to, and how they are shown. Pure: no process,
//! no clock, no async. The program `compare` does the measuring.

pub mod goals;
pub mod measure;
pub mod plot;
pub mod proc;
pub mod report;
pub mod stats;
pub mod table;
