//! Tiny bare-metal test guests with their expected outputs.
