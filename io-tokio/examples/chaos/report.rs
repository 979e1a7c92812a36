//! The audits on stdout: a table for people, or one line of JSON for programs.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::audit::Audit;

/// The audit of each contender, by its name.
pub(crate) type Audits<'a> = [(&'a str, Audit)];

impl Audit {
    /// What is shown: the key in JSON, the label in the table, the value.
    fn rows(&self) -> [(&'static str, &'static str, u64); 13] {
        [
            ("sent", "sent", self.sent),
            ("delivered", "reported delivered", self.delivered),
            ("failed", "reported failed", self.failed),
            ("arrived", "arrived", self.arrived),
            ("lost", "lost", self.lost),
            (
                "lost_though_delivered",
                "lost although reported delivered",
                self.lost_though_delivered,
            ),
            (
                "lost_with_server",
                "reported delivered, lost with the server process",
                self.lost_with_server,
            ),
            ("without_one_outcome", "without exactly one outcome", self.without_one_outcome),
            ("duplicated", "duplicated", self.duplicated),
            ("out_of_order", "first arrivals out of order", self.out_of_order),
            ("invented", "arrived, but never sent", self.invented),
            ("reconnects", "reconnects", self.reconnects),
            ("per_second", "messages a second", self.per_second),
        ]
    }
}

/// A column for each contender.
pub(crate) fn table(audits: &Audits) -> String {
    let mut table = format!("{:50}", "");
    for (name, _) in audits {
        write!(table, "{name:>12}").expect("a string takes all");
    }
    let columns: Vec<_> = audits.iter().map(|(_, audit)| audit.rows()).collect();
    let labels = columns.first().into_iter().flatten();
    for (row, (_, label, _)) in labels.enumerate() {
        write!(table, "\n{label:50}").expect("a string takes all");
        for column in &columns {
            let value = grouped(column[row].2);
            write!(table, "{value:>12}").expect("a string takes all");
        }
    }
    table
}

/// One line: what was run, and an object for each contender.
pub(crate) fn line(mut run: Map<String, Value>, audits: &Audits) -> String {
    for (name, audit) in audits {
        let values = audit
            .rows()
            .into_iter()
            .map(|(key, _, value)| (key.to_owned(), json!(value)))
            .collect();
        run.insert((*name).to_owned(), Value::Object(values));
    }
    Value::Object(run).to_string()
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::audit::{Numbers, Reported};

    fn audit() -> Audit {
        let reported =
            Reported { handed: 1_234, delivered: (0..1_234).collect(), ..Reported::default() };
        Audit::of(&reported, &[0, 1], &Numbers::default(), Duration::from_secs(1))
    }

    #[test]
    fn the_table_has_a_column_for_each_contender() {
        let table = table(&[("usual", audit()), ("bowline", audit())]);
        let mut lines = table.lines();
        assert!(lines.next().unwrap().ends_with("usual     bowline"));
        assert!(lines.next().unwrap().ends_with("1,234       1,234"));
        assert_eq!(lines.count(), 12);
    }

    #[test]
    fn the_line_is_json() {
        let line = line(Map::new(), &[("usual", audit())]);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["usual"]["lost"], 1_232);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
