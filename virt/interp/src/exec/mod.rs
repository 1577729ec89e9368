//! What instructions do: one file per group of handlers.
