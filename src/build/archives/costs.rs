//! What archives take of the engine to unpack them.

use super::{BLOCKS_BYTES, HEADERS_BYTES, STEPS_MAX, STRAYS_MAX, spent::ARCHIVES_MAX};
use crate::build::tar::unpack::{RATIO_MAX, UNPACKED_BYTES};

/// What archives take of the engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    pub(super) archives: usize,
    /// How many names of paths it opens.
    pub(super) steps: u64,
    /// How many entries lie behind directories without an entry.
    pub(super) strays: u64,
    /// How many bytes of blocks `xz` holds.
    pub(super) blocks: u64,
    /// How many bytes of headers it keeps.
    pub(super) headers: u64,
    /// How many bytes the compressed ones have.
    pub(super) packed: u64,
    /// How many bytes these unpack to.
    pub(super) unpacked: u64,
}

impl Costs {
    /// Adds those of an archive that so many copies of the build unpack.
    ///
    /// # Errors
    /// Why it may not be unpacked beside the others.
    pub fn add(&mut self, costs: Self, copies: usize) -> Result<(), String> {
        let times = copies as u64;
        let add = |sum: &mut u64, one: u64| *sum = sum.saturating_add(one.saturating_mul(times));
        self.archives = self.archives.saturating_add(costs.archives.saturating_mul(copies));
        add(&mut self.steps, costs.steps);
        add(&mut self.strays, costs.strays);
        add(&mut self.blocks, costs.blocks);
        add(&mut self.headers, costs.headers);
        add(&mut self.packed, costs.packed);
        add(&mut self.unpacked, costs.unpacked);
        if self.archives > ARCHIVES_MAX {
            return Err(format!("is one of more than {ARCHIVES_MAX} archives that `ADD` would unpack"));
        }
        if self.steps > STEPS_MAX {
            return Err(too_deep(STEPS_MAX));
        }
        if self.strays > STRAYS_MAX {
            return Err(too_stray());
        }
        if self.blocks > BLOCKS_BYTES {
            return Err(too_large(BLOCKS_BYTES));
        }
        if self.headers > HEADERS_BYTES {
            return Err(too_much(HEADERS_BYTES));
        }
        if is_too_dense(self.packed, self.unpacked) {
            return Err(too_dense());
        }
        Ok(())
    }

    /// The worst of both.
    pub(super) fn most(self, other: Self) -> Self {
        Self {
            archives: self.archives.max(other.archives),
            steps: self.steps.max(other.steps),
            strays: self.strays.max(other.strays),
            blocks: self.blocks.max(other.blocks),
            headers: self.headers.max(other.headers),
            // Fewer of these allow less.
            packed: self.packed.min(other.packed),
            unpacked: self.unpacked.max(other.unpacked),
        }
    }
}

/// Whether so many bytes unpack to too many.
pub(super) fn is_too_dense(packed: u64, unpacked: u64) -> bool {
    unpacked > UNPACKED_BYTES && unpacked / RATIO_MAX > packed
}

/// The refusal of an archive that grows too much.
pub(super) fn too_dense() -> String {
    format!(
        "is more than {RATIO_MAX} times as large unpacked, with the archives before it: leave out empty files, or \
         unpack it in the context"
    )
}

/// The refusal of an archive whose headers would fill the engine's memory.
pub(super) fn too_much(max: u64) -> String {
    format!(
        "has more than {} MiB of paths, links and attributes, which is the limit in this build; a hard link counts as \
         the longest link that it may lead to, and a directory or an attribute as some hundred bytes",
        max >> 20
    )
}

/// The refusal of an archive that would keep the engine busy for too long.
pub(super) fn too_deep(max: u64) -> String {
    format!(
        "has too many or too deep paths: unpacking it takes more than {max} steps, some eight for each name of each path"
    )
}

/// The refusal of an archive that would have the engine follow links of earlier steps too often.
pub(super) fn too_stray() -> String {
    format!(
        "has more than {STRAYS_MAX} entries, with the archives before it, in directories that have no entry of their own: \
         make it from a directory, as `tar -C DIRECTORY -c .` does"
    )
}

/// Why blocks are refused.
pub(super) fn too_large(max: u64) -> String {
    format!(
        "has blocks that `xz` holds in memory, more than the {} MiB that it may take in this build: compress it by \
         `xz -T1`",
        max >> 20
    )
}
