//! C source without headers: functions with loops, switches, structures and arithmetic, enough of
//! each to keep an optimizer busy.

use std::io::{Error, Write};

use crate::random::Random;

/// Writes `count` functions and one that calls them all.
pub(super) fn write(count: u64, to: &mut impl Write) -> Result<(), Error> {
    let mut random = Random::new(1972);
    writeln!(to, "struct node {{ struct node *next; long key; int weight[8]; double share; }};")?;
    writeln!(to, "extern long outside(long, const void *);\nstatic unsigned char table[4096];")?;
    for index in 0..count {
        function(index, &mut random, to)?;
    }
    writeln!(to, "long all(struct node *n, long a)\n{{")?;
    for index in 0..count {
        writeln!(to, "\ta += f{index}(n, a, {});", random.below(100))?;
    }
    writeln!(to, "\treturn a;\n}}")
}

fn function(index: u64, random: &mut Random, to: &mut impl Write) -> Result<(), Error> {
    writeln!(to, "static long f{index}(struct node *n, long a, int b)\n{{")?;
    writeln!(to, "\tlong x = a, y = b, z = 1; int i;")?;
    for _ in 0..random.below(4) + 3 {
        let (c, d) = (random.below(97) + 2, random.below(13) + 1);
        match random.below(6) {
            0 => writeln!(to, "\tfor (i = 0; i < b + {c}; i++) x += table[(x ^ i * {d}) & 4095];")?,
            1 => {
                writeln!(to, "\tswitch (x & 7) {{")?;
                for case in 0..6 {
                    writeln!(to, "\tcase {case}: y = y * {} + z; break;", random.below(50) + case)?;
                }
                writeln!(to, "\tdefault: z += outside(y, n); }}")?;
            }
            2 => writeln!(
                to,
                "\twhile (n && n->key < y + {c}) {{ n->weight[{}] += (int)x; n = n->next; }}",
                d & 7
            )?,
            3 => writeln!(to, "\tif (x % {c} == {d}) y -= z << {d}; else z ^= y / {c};")?,
            4 => writeln!(to, "\tif (n) {{ n->share = n->share * {c}.5 + (double)x / {d}; }}")?,
            _ if index > 0 => {
                writeln!(to, "\tz += f{}(n, x & {c}, b - 1);", random.below(index))?;
            }
            _ => writeln!(to, "\tx = (x << {d} | y >> {d}) + {c};")?,
        }
    }
    writeln!(to, "\treturn x + y * z;\n}}\n")
}
