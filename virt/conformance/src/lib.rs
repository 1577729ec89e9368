//! Tiny guests run on every engine; their final states and I/O traces compared.
