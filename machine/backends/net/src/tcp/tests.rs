//! Tests of the terminator, by hand-made segments over a fake host.
