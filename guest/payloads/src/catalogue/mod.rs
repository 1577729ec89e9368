//! The list of payloads; each file is a group.

use crate::payload::Payload;

macro_rules! catalogue {
    (($d:tt) $($group:ident { $($name:ident)* })*) => {
        $(mod $group;)*

        type Entry = (&'static str, fn() -> Payload);

        const ENTRIES: &[Entry] = &[
            $($((concat!(stringify!($group), "::", stringify!($name)), $group::$name),)*)*
        ];

        /// Hands `group { name name ... } ...` of every payload to a macro.
        #[macro_export]
        macro_rules! for_each_payload {
            ($d callback:ident) => {
                $d callback! { $($group { $($name)* })* }
            };
        }
    };
}

catalogue! { ($)
    modes {
        real_mode real_protected_real real_long_real unreal_mode compatibility_mode far_transfers
        vm86
    }
}

fn build((name, make): Entry) -> Payload {
    Payload { name, ..make() }
}

/// Every payload.
pub fn all() -> Vec<Payload> {
    ENTRIES.iter().copied().map(build).collect()
}

/// The payload called `group::name`.
pub fn by_name(name: &str) -> Option<Payload> {
    ENTRIES.iter().copied().find(|entry| entry.0 == name).map(build)
}
