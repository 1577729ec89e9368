//! The server asked by a client in this process, on directories of the host.

mod bounds;
mod client;
mod contents;
mod escapes;
mod folders;
mod locks;
mod names;
