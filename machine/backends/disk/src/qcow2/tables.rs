//! A bounded cache of tables, one cluster each, that notes which differ from the file.

use std::collections::HashMap;

#[derive(Debug)]
struct Table {
    bytes: Vec<u8>,
    dirty: bool,
    used: u64,
}

/// Tables by their offset in the file.
#[derive(Debug)]
pub(crate) struct Tables {
    tables: HashMap<u64, Table>,
    limit: usize,
    clock: u64,
}

impl Tables {
    /// A cache of about so many bytes, of at least eight tables.
    pub(crate) fn new(bytes: u64, cluster: u64) -> Self {
        let limit = (bytes / cluster).clamp(8, 512) as usize;
        Self { tables: HashMap::new(), limit, clock: 0 }
    }

    pub(crate) fn get(&mut self, offset: u64) -> Option<&[u8]> {
        self.clock += 1;
        let table = self.tables.get_mut(&offset)?;
        table.used = self.clock;
        Some(&table.bytes)
    }

    /// The table to change, which makes it differ from the file.
    pub(crate) fn change(&mut self, offset: u64) -> Option<&mut [u8]> {
        self.clock += 1;
        let table = self.tables.get_mut(&offset)?;
        (table.used, table.dirty) = (self.clock, true);
        Some(&mut table.bytes)
    }

    /// Makes room for one more; `false` if all that could go must be written first.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.tables.len() < self.limit {
            return true;
        }
        let oldest = self.tables.iter().filter(|(_, table)| !table.dirty);
        let oldest = oldest.min_by_key(|(_, table)| table.used).map(|(offset, _)| *offset);
        oldest.is_some_and(|offset| self.tables.remove(&offset).is_some())
    }

    pub(crate) fn insert(&mut self, offset: u64, bytes: Vec<u8>, dirty: bool) {
        self.clock += 1;
        self.tables.insert(offset, Table { bytes, dirty, used: self.clock });
    }

    /// Forgets a table whose cluster is no table any more.
    pub(crate) fn forget(&mut self, offset: u64) {
        self.tables.remove(&offset);
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.tables.values().any(|table| table.dirty)
    }

    /// Gives each table that differs to `write`, in the file's order; those it takes do not any more.
    pub(crate) fn write_back<E>(
        &mut self,
        mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut dirty: Vec<_> = self.tables.iter_mut().filter(|(_, table)| table.dirty).collect();
        dirty.sort_unstable_by_key(|(offset, _)| **offset);
        for (offset, table) in dirty {
            write(*offset, &table.bytes)?;
            table.dirty = false;
        }
        Ok(())
    }
}
