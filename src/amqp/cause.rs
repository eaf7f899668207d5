//! Findings of one cause are one thing to tell: a right that is missing on a prefix, a policy that matches all queues.
//! What it is about is named once, and so is what fixes it.

use std::fmt;

use super::finding::{BrokerObject, Finding, Problem};

/// Findings with one fix: a single one, or several that report the same of different exchanges and queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause<'a> {
    findings: Vec<&'a Finding>,
}

/// The causes of these findings, in the order of their first ones.
pub fn causes(findings: &[Finding]) -> Vec<Cause<'_>> {
    let mut causes: Vec<Cause<'_>> = Vec::new();
    for finding in findings {
        match causes.iter_mut().find(|cause| cause.explains(finding)) {
            Some(cause) => cause.findings.push(finding),
            None => causes.push(Cause { findings: vec![finding] }),
        }
    }
    causes
}

impl Cause<'_> {
    fn explains(&self, finding: &Finding) -> bool {
        self.findings.first().is_some_and(|first| {
            let same_kind = match (&first.problem, &finding.problem) {
                (Problem::Missing, Problem::Missing)
                | (Problem::Policy { .. }, Problem::Policy { .. })
                | (Problem::NotPermitted { .. }, Problem::NotPermitted { .. }) => true,
                // Each of them is deleted and declared again by itself.
                (Problem::Differs { .. }, _)
                | (Problem::Missing | Problem::Policy { .. } | Problem::NotPermitted { .. }, _) => false,
            };
            same_kind && first.fix == finding.fix
        })
    }

    /// What it is about, each named once.
    pub fn objects(&self) -> String {
        let mut objects: Vec<&BrokerObject> = Vec::new();
        for finding in &self.findings {
            if !objects.contains(&&finding.object) {
                objects.push(&finding.object);
            }
        }
        names(&objects)
    }

    /// What differs.
    pub fn argument(&self) -> String {
        self.distinct(Finding::argument)
    }

    /// What it is.
    pub fn found(&self) -> String {
        self.distinct(|finding| finding.found().to_owned())
    }

    /// What it must be.
    pub fn expected(&self) -> String {
        self.distinct(|finding| finding.expected().to_owned())
    }

    /// What fixes it.
    pub fn fix(&self) -> &str {
        self.findings.first().map_or("", |finding| &finding.fix)
    }

    fn distinct(&self, of: impl Fn(&Finding) -> String) -> String {
        let mut all: Vec<String> = Vec::new();
        for text in self.findings.iter().map(|finding| of(finding)) {
            if !all.contains(&text) {
                all.push(text);
            }
        }
        all.join("; ")
    }

    /// What is said, and of what: each of them in one group, with all that is said of it.
    fn groups(&self) -> Vec<(Vec<&BrokerObject>, Vec<String>)> {
        let mut said: Vec<(&BrokerObject, Vec<String>)> = Vec::new();
        for finding in &self.findings {
            let text = finding.said();
            match said.iter_mut().find(|(object, _)| **object == finding.object) {
                Some((_, texts)) => texts.push(text),
                None => said.push((&finding.object, vec![text])),
            }
        }
        let mut groups: Vec<(Vec<&BrokerObject>, Vec<String>)> = Vec::new();
        for (object, texts) in said {
            match groups.iter_mut().find(|(_, same)| *same == texts) {
                Some((objects, _)) => objects.push(object),
                None => groups.push((vec![object], texts)),
            }
        }
        groups
    }
}

/// One finding as its sentence; more of them as one, with the names that it holds for.
impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [finding] = self.findings.as_slice() {
            return finding.fmt(f);
        }
        for (at, (objects, texts)) in self.groups().iter().enumerate() {
            let before = if at == 0 { "" } else { ". " };
            write!(f, "{before}{}: {}", names(objects), texts.join("; "))?;
        }
        write!(f, ". To fix it: {}", self.fix())
    }
}

/// ``2 exchanges (`a`, `b`), 1 queue (`c`)``; one alone as it prints itself.
fn names(objects: &[&BrokerObject]) -> String {
    if let [object] = objects {
        return object.to_string();
    }
    let mut kinds: Vec<(&str, &str, Vec<String>)> = Vec::new();
    for object in objects {
        let (one, many) = object.kinds();
        match kinds.iter_mut().find(|(known, _, _)| *known == one) {
            Some((_, _, names)) => names.push(object.name()),
            None => kinds.push((one, many, vec![object.name()])),
        }
    }
    let listed = kinds.into_iter().map(|(one, many, names)| {
        let noun = if names.len() == 1 { one } else { many };
        format!("{} {noun} ({})", names.len(), names.join(", "))
    });
    listed.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::finding::{PolicyName, QueueKindFound, Target};
    use crate::amqp::topology::Permissions;

    fn place() -> Target {
        let all = || r"^cancel\.".to_owned();
        Target::new("/", None, Permissions { configure: all(), write: all(), read: all() })
    }

    fn queue(name: &str) -> BrokerObject {
        BrokerObject::Queue(name.to_owned())
    }

    #[test]
    fn one_policy_on_all_queues_is_one_cause_that_names_each_queue_and_each_limit_once() {
        let by = || vec![PolicyName::Policy("all".to_owned())];
        let finding = |name: &str, key: &str, found: i64| {
            place().policy(queue(name), by(), key, found, "not set".to_owned())
        };
        let findings = [
            finding("a", "max-length", 5),
            finding("a", "max-length-bytes", 1000),
            finding("b", "max-length", 5),
            finding("b", "max-length-bytes", 1000),
            finding("c", "max-length", 5),
        ];
        let causes = causes(&findings);
        let [cause] = causes.as_slice() else { panic!("{causes:?}") };
        assert_eq!(
            cause.to_string(),
            "2 queues (`a`, `b`): policy `all` sets `max-length` to 5, and it must be not set; policy `all` sets \
             `max-length-bytes` to 1000, and it must be not set. queue `c`: policy `all` sets `max-length` to 5, and it \
             must be not set. To fix it: make its pattern match nothing of ours, or take it away: `rabbitmqctl \
             clear_policy -p / all`"
        );
        assert_eq!(cause.found(), "5; 1000");
    }

    #[test]
    fn a_right_that_is_missing_on_a_prefix_is_one_cause() {
        let findings = [
            place().not_permitted(BrokerObject::Exchange("x".to_owned()), "declare"),
            place().not_permitted(queue("a"), "declare"),
            place().not_permitted(queue("b"), "declare"),
            place().not_permitted(queue("b"), "consume from"),
        ];
        let causes = causes(&findings);
        let [cause] = causes.as_slice() else { panic!("{causes:?}") };
        assert!(
            cause.to_string().starts_with(
                "1 exchange (`x`), 1 queue (`a`): we have no permission to declare it. queue `b`: we have no permission \
                 to declare it; we have no permission to consume from it. To fix it: `rabbitmqctl set_permissions"
            ),
            "{cause}"
        );
        assert_eq!(cause.objects(), "1 exchange (`x`), 2 queues (`a`, `b`)");
    }

    #[test]
    fn what_is_fixed_by_different_deeds_is_told_apart() {
        let by = |name: &str| vec![PolicyName::Policy(name.to_owned())];
        let findings = [
            place().missing(queue("a")),
            place().missing(queue("b")),
            place().queue_differs("c", QueueKindFound::Quorum, "x-max-length", 10, "not set"),
            place().queue_differs("d", QueueKindFound::Quorum, "x-max-length", 10, "not set"),
            place().policy(queue("a"), by("one"), "max-length", 5, "not set".to_owned()),
            place().policy(queue("a"), by("two"), "max-length", 5, "not set".to_owned()),
        ];
        assert_eq!(causes(&findings).len(), 5);
        let told = causes(&findings)[0].to_string();
        assert!(told.starts_with("2 queues (`a`, `b`): missing. To fix it: "), "{told}");
    }
}
