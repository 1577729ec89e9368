//! An SQL script for sqlite3: tables, indices, joins, aggregates, updates.

use std::io::{Error, Write};

use crate::random::Random;

/// Writes a script around `count` x 100 rows.
pub(super) fn write(count: u64, to: &mut impl Write) -> Result<(), Error> {
    let mut random = Random::new(1974);
    let rows = count * 100;
    writeln!(to, "PRAGMA journal_mode = OFF;\nBEGIN;")?;
    writeln!(to, "CREATE TABLE part(id INTEGER PRIMARY KEY, name TEXT, price INT, kind INT);")?;
    writeln!(to, "CREATE TABLE sale(part INT, day INT, amount INT);")?;
    for id in 0..rows / 4 {
        let (price, kind) = (random.below(10_000), random.below(40));
        writeln!(to, "INSERT INTO part VALUES({id}, 'part number {price}', {price}, {kind});")?;
    }
    writeln!(
        to,
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})\n\
         INSERT INTO sale SELECT (i * 7919) % {}, (i * 31) % 365, (i * 17) % 50 FROM n;",
        (rows / 4).max(1)
    )?;
    writeln!(to, "CREATE INDEX by_part ON sale(part);\nCREATE INDEX by_kind ON part(kind);")?;
    writeln!(to, "COMMIT;")?;
    writeln!(
        to,
        "SELECT kind, count(*), sum(amount * price) FROM part JOIN sale ON sale.part = part.id\n\
         GROUP BY kind ORDER BY kind;\n\
         SELECT name, max(amount) FROM part, sale WHERE id = part AND name LIKE '%77%'\n\
         GROUP BY name ORDER BY name LIMIT 50;\n\
         UPDATE part SET price = price + (SELECT count(*) FROM sale WHERE part = id);\n\
         DELETE FROM sale WHERE day % 7 = 3;\n\
         SELECT day % 12, sum(amount), avg(amount) FROM sale GROUP BY 1 ORDER BY 1;\n\
         SELECT sum(price), count(DISTINCT name) FROM part;\nPRAGMA integrity_check;"
    )
}
