//! Whether an image is consistent, and making it so.
//!
//! All that names clusters is walked and counted, each table once however often it is named, and
//! compared with the refcounts. A repair writes refcounts anew (`rebuild.rs`) and mends COPIED
//! flags; entries that name nothing sensible stay, for a human to decide.
//!
//! Invariant: work and memory follow what the file really holds.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::bytes::{entries, get64};
use crate::error::DiskError;
use crate::host::HostFile;

use super::entry::{COPIED, Cluster, OFFSET, decode};
use super::header::Header;
use super::rebuild::rebuild;
use super::refcounts;
use super::snapshots::snapshots;

/// Problems that are told in words.
const TOLD: usize = 20;

/// What a check found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checked {
    /// Clusters of the file that should not be, or not so often.
    pub(crate) leaks: u64,
    /// Contradictions that would lose data.
    pub(crate) errors: u64,
    /// Of both, how many were mended and do not count above.
    pub(crate) repaired: u64,
    /// Clusters of the disk that have a place in the file.
    pub(crate) allocated: u64,
    pub(crate) problems: Vec<String>,
}

/// How often each cluster of the file is named.
#[derive(Debug, Default)]
pub(crate) struct References(HashMap<u64, Box<[u32; 1024]>>);

impl References {
    pub(crate) fn add(&mut self, cluster: u64, times: u32) {
        let chunk = self.0.entry(cluster / 1024).or_insert_with(|| Box::new([0; 1024]));
        let count = &mut chunk[(cluster % 1024) as usize];
        *count = count.saturating_add(times);
    }

    pub(crate) fn of(&self, cluster: u64) -> u32 {
        self.0.get(&(cluster / 1024)).map_or(0, |chunk| chunk[(cluster % 1024) as usize])
    }

    /// All clusters that are named, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.0
            .iter()
            .flat_map(|(chunk, counts)| {
                let first = chunk * 1024;
                counts.iter().enumerate().map(move |(n, count)| (first + n as u64, *count))
            })
            .filter(|(_, count)| *count != 0)
    }
}

/// A walk through all tables.
struct Walk<'a> {
    file: &'a HostFile,
    header: &'a Header,
    clusters: u64,
    /// Everything but the refcount structure itself.
    named: References,
    found: Checked,
}

/// Checks an image, and mends what can be if `repair`. Progress is in tables, of how many.
pub(crate) fn check(
    file: &HostFile,
    header: &Header,
    repair: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Checked, DiskError> {
    let clusters = file.size()?.div_ceil(header.cluster());
    let (named, found) = (References::default(), Checked::default());
    let mut walk = Walk { file, header, clusters, named, found };
    let l1 = walk.table(header.l1_offset, u64::from(header.l1_entries) * 8, "the L1 table")?;
    let tables = walk.count_tables(&l1)?;
    walk.count_clusters(&tables, progress)?;
    let (wrong, unmendable) = (walk.compare()?, walk.found.errors);
    let flags = walk.check_flags(&l1, &tables, repair)?;
    let Walk { named, mut found, .. } = walk;
    let (leaks, low) = wrong;
    found.leaks = leaks;
    found.errors += low + flags;
    let wants = leaks > 0 || low > 0 || header.is_dirty();
    if !repair || (!wants && flags == 0 && !header.is_marked_corrupt()) {
        return Ok(found);
    }
    let mut header = header.clone();
    if wants {
        if header.has_bitmaps() {
            return Err(DiskError::Unsupported {
                path: file.path().to_path_buf(),
                feature: "has dirty bitmaps, whose clusters a repair would free".into(),
                fix: "remove them (qemu-img bitmap --remove) or use qemu-img check -r all".into(),
            });
        }
        rebuild(file, &mut header, &named)?;
    }
    file.sync()?;
    if unmendable == 0 {
        header.mark_sound(file)?;
    }
    found.repaired = leaks + low + flags;
    (found.leaks, found.errors) = (0, unmendable);
    Ok(found)
}

impl Walk<'_> {
    fn problem(&mut self, text: String) {
        self.found.errors += 1;
        if self.found.problems.len() < TOLD {
            self.found.problems.push(text);
        }
    }

    /// Reads a table that the header vouches for, and counts its clusters.
    fn table(
        &mut self,
        offset: u64,
        bytes: u64,
        what: &'static str,
    ) -> Result<Vec<u64>, DiskError> {
        let mut table = vec![0; bytes as usize];
        self.file.read_all(offset, &mut table, what)?;
        self.name_run(offset, bytes);
        Ok(entries(&table))
    }

    fn name_run(&mut self, offset: u64, bytes: u64) {
        let first = offset >> self.header.cluster_bits;
        for cluster in first..first + bytes.div_ceil(self.header.cluster()) {
            self.named.add(cluster, 1);
        }
    }

    /// Whether a cluster that a table names can be one.
    fn is_sound(&self, offset: u64) -> bool {
        offset.is_multiple_of(self.header.cluster())
            && offset >> self.header.cluster_bits < self.clusters
    }

    /// All L2 tables and how often each is named, the snapshots' included.
    fn count_tables(&mut self, active: &[u64]) -> Result<BTreeMap<u64, u32>, DiskError> {
        self.named.add(0, 1);
        let (all, table_bytes) = snapshots(self.file, self.header)?;
        self.name_run(self.header.snapshots_offset, table_bytes);
        let mut tables = BTreeMap::new();
        self.count_l1(active, &mut tables);
        for one in all {
            let bytes = u64::from(one.l1_entries) * 8;
            let l1 = self.table(one.l1_offset, bytes, "a snapshot's L1 table")?;
            self.count_l1(&l1, &mut tables);
        }
        Ok(tables)
    }

    fn count_l1(&mut self, l1: &[u64], tables: &mut BTreeMap<u64, u32>) {
        for (index, entry) in l1.iter().enumerate() {
            let offset = entry & OFFSET;
            if entry & !(OFFSET | COPIED) != 0 || !self.is_sound(offset) {
                self.problem(format!("L1 entry {index} is {entry:#x}, which is no L2 table"));
            } else if offset != 0 {
                *tables.entry(offset).or_insert(0) += 1;
                self.named.add(offset >> self.header.cluster_bits, 1);
            }
        }
    }

    fn read_cluster(&self, offset: u64) -> Result<Vec<u8>, DiskError> {
        let mut bytes = vec![0; self.header.cluster() as usize];
        self.file.read_some(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn count_clusters(
        &mut self,
        tables: &BTreeMap<u64, u32>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), DiskError> {
        for (done, (offset, times)) in tables.iter().enumerate() {
            progress(done as u64, tables.len() as u64);
            for (index, entry) in entries(&self.read_cluster(*offset)?).into_iter().enumerate() {
                let bits = self.header.cluster_bits;
                let used = decode(entry, self.header.version, bits).map(|one| one.uses(bits));
                match used {
                    Some(None) => {}
                    Some(Some((host, count)))
                        if self.is_sound(host) && self.is_sound(host + ((count - 1) << bits)) =>
                    {
                        self.found.allocated += 1;
                        let first = host >> bits;
                        (first..first + count).for_each(|cluster| self.named.add(cluster, *times));
                    }
                    _ => self.problem(format!(
                        "entry {index} of the L2 table at byte {offset} is {entry:#x}, which is no \
                         cluster of the file"
                    )),
                }
            }
        }
        Ok(())
    }

    /// Compares with the refcounts: leaks, and counts that are too low.
    fn compare(&mut self) -> Result<(u64, u64), DiskError> {
        let header = self.header;
        let reftable_bytes = u64::from(header.reftable_clusters) << header.cluster_bits;
        let mut table = vec![0; reftable_bytes as usize];
        self.file.read_all(header.reftable_offset, &mut table, "the refcount table")?;
        let table = entries(&table);
        let mut own = References::default();
        let first = header.reftable_offset >> header.cluster_bits;
        (first..first + u64::from(header.reftable_clusters)).for_each(|one| own.add(one, 1));
        let mut blocks = HashSet::new();
        let (mut leaks, mut low) = (0, 0);
        let mut sound = vec![false; table.len()];
        for (area, entry) in table.iter().enumerate() {
            let offset = entry & OFFSET;
            if offset == 0 {
                continue;
            }
            own.add(offset >> header.cluster_bits, 1);
            sound[area] = entry & !OFFSET == 0 && self.is_sound(offset) && blocks.insert(offset);
            if !sound[area] {
                // A rebuilt table has it no more.
                low += 1;
                self.tell(format!("entry {area} of the refcount table is {entry:#x}"));
            }
        }
        let bits = header.refblock_bits();
        for (area, entry) in table.iter().enumerate().filter(|(area, _)| sound[*area]) {
            let block = self.read_cluster(entry & OFFSET)?;
            for index in 0..1_usize << bits {
                let cluster = ((area as u64) << bits) + index as u64;
                let count = refcounts::get(&block, index, header.refcount_order);
                let expected = u64::from(self.named.of(cluster)) + u64::from(own.of(cluster));
                if count > expected {
                    leaks += 1;
                } else if count < expected {
                    low += 1;
                    self.tell(format!(
                        "cluster {cluster} is used {expected} times, counted {count}"
                    ));
                }
            }
        }
        let is_counted =
            |cluster: u64| sound.get((cluster >> bits) as usize).copied() == Some(true);
        let uncounted = |references: &References| {
            references.all().filter(|(cluster, _)| !is_counted(*cluster)).count() as u64
        };
        low += uncounted(&self.named) + uncounted(&own);
        Ok((leaks, low))
    }

    fn tell(&mut self, text: String) {
        if self.found.problems.len() < TOLD {
            self.found.problems.push(text);
        }
    }

    /// COPIED flags of the active tables against how often their clusters are named.
    fn check_flags(
        &mut self,
        l1: &[u64],
        tables: &BTreeMap<u64, u32>,
        repair: bool,
    ) -> Result<u64, DiskError> {
        let bits = self.header.cluster_bits;
        let mut wrong = 0;
        for (index, entry) in l1.iter().enumerate() {
            let offset = entry & OFFSET;
            if offset == 0 || !tables.contains_key(&offset) {
                continue;
            }
            let right = self.named.of(offset >> bits) == 1;
            if (entry & COPIED != 0) != right {
                wrong += 1;
                self.tell(format!("L1 entry {index} is {entry:#x}, its COPIED flag is wrong"));
                if repair {
                    let at = self.header.l1_offset + index as u64 * 8;
                    self.file.write_all(at, &(entry ^ COPIED).to_be_bytes())?;
                }
            }
        }
        let active: HashSet<u64> = l1.iter().map(|entry| entry & OFFSET).collect();
        for offset in tables.keys().filter(|offset| active.contains(offset)) {
            let table = self.read_cluster(*offset)?;
            for index in 0..table.len() / 8 {
                let entry = get64(&table, index);
                let (host, copied) = match decode(entry, self.header.version, bits) {
                    Some(
                        Cluster::Data { host, copied } | Cluster::Zero { host: Some(host), copied },
                    ) => (host, copied),
                    _ => continue,
                };
                if !self.is_sound(host) || copied == (self.named.of(host >> bits) == 1) {
                    continue;
                }
                wrong += 1;
                self.tell(format!(
                    "entry {index} of the L2 table at byte {offset} is {entry:#x}, its COPIED flag \
                     is wrong"
                ));
                if repair {
                    let at = offset + index as u64 * 8;
                    self.file.write_all(at, &(entry ^ COPIED).to_be_bytes())?;
                }
            }
        }
        Ok(wrong)
    }
}
