//! The text that Prometheus reads, as [its documentation](https://prometheus.io/docs/instrumenting/exposition_formats/) says.
//!
//! The parts of a server count by themselves ([`crate::measure`]), so what is left for a library is this page of code. The test in `tests/it/metrics` has
//! Prometheus' own `promtool` read what comes out.

use std::fmt::{Display, Write as _};

use crate::measure::Distribution;

/// The media type.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Families one after the other.
#[derive(Debug, Default)]
pub struct Text(String);

/// All samples of one name.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

/// A label's name and its value.
pub type Label<'a> = (&'static str, &'a dyn Display);

impl Text {
    /// What only rises, as long as the process lives. Its name ends with `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// What rises and falls.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// How often something was how large.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        self.0.push_str(&format!("# HELP {name} {}\n# TYPE {name} {kind}\n", help.replace('\\', "\\\\").replace('\n', "\\n")));
        Family { text: &mut self.0, name }
    }

    /// All of it.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One sample.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Display) -> &mut Self {
        self.line("", labels, None, value);
        self
    }

    /// The samples of a histogram. `per_unit` is how many of its values make one of what is told: 1e6 for microseconds.
    pub fn distribution(&mut self, labels: &[Label<'_>], distribution: &Distribution, per_unit: f64) -> &mut Self {
        let mut up_to = 0;
        for (bound, count) in distribution.bounds.iter().zip(&distribution.counts) {
            up_to += count;
            self.line("_bucket", labels, Some(&scaled(*bound, per_unit)), up_to);
        }
        self.line("_bucket", labels, Some(&"+Inf"), distribution.count());
        self.line("_sum", labels, None, scaled(distribution.sum, per_unit));
        self.line("_count", labels, None, distribution.count());
        self
    }

    fn line(&mut self, ending: &str, labels: &[Label<'_>], bound: Option<&dyn Display>, value: impl Display) {
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let labels: Vec<String> = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(&value.to_string()))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.text, "{}{ending}{labels} {value}", self.name).expect("a string takes what is written");
    }
}

#[expect(clippy::cast_precision_loss, reason = "what is counted is read as a double")]
fn scaled(value: u64, per_unit: f64) -> f64 {
    value as f64 / per_unit
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Histogram;

    #[test]
    fn families_are_written_as_documented() {
        let histogram = Histogram::new(&[5_000, 2_500_000]);
        for value in [1_000, 5_000, 6_000, 3_000_000] {
            histogram.observe(value);
        }
        let mut text = Text::default();
        text.counter("a_total", "Back\\slash\nand line.").sample(&[], 7).sample(&[("l", &"q\"\\\n"), ("m", &1)], 1.5);
        text.histogram("b_seconds", "Times.").distribution(&[("l", &"x")], &histogram.get(), 1e6);
        let expected = r#"# HELP a_total Back\\slash\nand line.
# TYPE a_total counter
a_total 7
a_total{l="q\"\\\n",m="1"} 1.5
# HELP b_seconds Times.
# TYPE b_seconds histogram
b_seconds_bucket{l="x",le="0.005"} 2
b_seconds_bucket{l="x",le="2.5"} 3
b_seconds_bucket{l="x",le="+Inf"} 4
b_seconds_sum{l="x"} 3.012
b_seconds_count{l="x"} 4
"#;
        assert_eq!(text.into_string(), expected);
    }
}
