//! Chance that comes again.

use std::time::Duration;

/// Numbers that look random and are the same for the same seed (SplitMix64, Steele and others 2014).
#[derive(Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another one, whose numbers are its own.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below this.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    /// Any of these, one of the last so many.
    pub(super) fn recent(&mut self, of: &[i64], last: usize) -> Option<i64> {
        let from = of.len().saturating_sub(last) as u64;
        (!of.is_empty()).then(|| of[(from + self.below(of.len() as u64 - from)) as usize])
    }
}
