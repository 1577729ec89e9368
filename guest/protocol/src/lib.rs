//! The framed messages between guest init and host control.
