//! The operations, by what they are about.

mod attributes;
mod contents;
mod folders;
mod locks;
mod names;
mod nodes;
mod session;
