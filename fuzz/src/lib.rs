//! What targets share.
//!
//! Owns: the bound on memory, the frames that inputs of several parts are made of, and the rules that blocks and rows go by.
//! Does not own: what is asserted of an input (the targets).

pub mod counting;
pub mod frames;
pub mod limit;
pub mod pages;
