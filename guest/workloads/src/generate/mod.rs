//! Input for other programs, the same for the same amount: text, C source, SQL.

mod c;
mod sql;
mod text;

use std::io::{BufWriter, Error, Write};

/// Writes so much of a kind.
pub(crate) fn write(kind: &str, amount: u64, to: &mut dyn Write) -> Result<(), Error> {
    let mut to = BufWriter::new(to);
    match kind {
        "text" => text::write(amount, &mut to)?,
        "c" => c::write(amount, &mut to)?,
        "sql" => sql::write(amount, &mut to)?,
        _ => return Err(Error::other(format!("there is no {kind} to generate: text, c, sql"))),
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_kind_is_the_same_twice_and_grows() {
        let make = |kind, amount| {
            let mut bytes = Vec::new();
            super::write(kind, amount, &mut bytes).unwrap();
            bytes
        };
        for kind in ["text", "c", "sql"] {
            assert_eq!(make(kind, 20), make(kind, 20));
            assert!(make(kind, 40).len() > make(kind, 20).len());
        }
        assert!(super::write("poems", 1, &mut Vec::new()).is_err());
    }
}
