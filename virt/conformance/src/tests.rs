//! The harness itself, on an engine that replays a script.
