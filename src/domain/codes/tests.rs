//! Holds the two tables to their own rule, to the numbers that the gateway's pages know, and to what the design
//! says of single codes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

use Class::{Busy, InDoubt, LockedOut, NotConfigured, Refused, RefusedByState};
use RejectedReason::{
    AlreadyRefunded, DeviceReceived, InvalidRequest, MarketplaceRecordsExist, NotFound, NotSuitable,
    RollbackRefused, Unsupported,
};

/// One row of `integers.tsv`, read by the tests' own eyes.
#[derive(Debug, Clone)]
struct IntegerRow {
    code: i64,
    /// Word and meaning in the tables a, doc, sdk; `None` where the table lacks the number.
    readings: [Option<(&'static str, &'static str)>; 3],
    class: &'static str,
    reason: &'static str,
    exception: &'static str,
}

const A: usize = 0;
const DOC: usize = 1;
const SDK: usize = 2;

fn cells<const N: usize>(table: &'static str) -> Vec<[&'static str; N]> {
    let lines = table.lines().filter(|line| !line.starts_with('#')).skip(1);
    lines.map(|line| line.split('\t').collect::<Vec<_>>().try_into().expect(line)).collect()
}

fn integer_rows() -> Vec<IntegerRow> {
    let rows = cells::<10>(INTEGERS_TSV).into_iter().map(
        |[code, aw, am, dw, dm, sw, sm, class, reason, exception]| {
            let reading = |word, meaning| match (word, meaning) {
                ("-", "-") => None,
                ("-", _) | (_, "-" | "") => panic!("half a reading in the row of {code}"),
                whole => Some(whole),
            };
            let readings = [reading(aw, am), reading(dw, dm), reading(sw, sm)];
            IntegerRow { code: code.parse().unwrap(), readings, class, reason, exception }
        },
    );
    rows.collect()
}

fn numbers_of(table: usize) -> BTreeSet<i64> {
    integer_rows().iter().filter(|row| row.readings[table].is_some()).map(|row| row.code).collect()
}

/// What one reading alone says.
fn class_of_word(word: &str) -> &'static str {
    match word {
        "success" => "success",
        "reject" => "refused",
        "already" | "not-found" => "refused_by_state",
        "auth" | "auth/config" => "not_configured",
        "retry" | "ambiguous" => "in_doubt",
        other => panic!("{other:?} is none of the words"),
    }
}

/// What all readings together say: what they agree on, else doubt.
fn class_of_readings(row: &IntegerRow) -> &'static str {
    let said: BTreeSet<&str> = row.readings.iter().flatten().map(|(word, _)| class_of_word(word)).collect();
    match said.iter().collect::<Vec<_>>()[..] {
        [unanimous] => unanimous,
        _ => "in_doubt",
    }
}

fn integers(check: impl IntoIterator<Item = i64>, expected: Class) {
    for code in check {
        assert_eq!(default_class_of_integer(code), Some(expected), "integer {code}");
    }
}

fn messages(check: &[&str], expected: Class) {
    for text in check {
        assert_eq!(default_class_of_message(text), Some(expected), "message {text}");
    }
}

mod the_table_of_integers {
    use super::*;

    #[test]
    fn gives_each_number_the_class_that_its_readings_agree_on_else_doubt() {
        for row in integer_rows().iter().filter(|row| row.exception == "-") {
            assert_eq!(row.class, class_of_readings(row), "{row:?}");
        }
    }

    #[test]
    fn departs_from_its_readings_only_where_the_design_says_so() {
        let rows = integer_rows();
        let exceptions: BTreeMap<i64, &IntegerRow> =
            rows.iter().filter(|row| row.exception != "-").map(|row| (row.code, row)).collect();
        let allowed: BTreeSet<i64> = (91..=97).chain([269, 359]).collect();
        assert_eq!(exceptions.keys().copied().collect::<BTreeSet<_>>(), allowed);
        for row in exceptions.values() {
            assert!(row.exception.starts_with("design.md §3: "), "an exception cites its source: {row:?}");
            assert_eq!(row.class, "refused_by_state", "{row:?}");
            assert_ne!(row.class, class_of_readings(row), "an exception that is none: {row:?}");
        }
    }

    #[test]
    fn has_a_reason_for_every_refusal_and_no_other() {
        let named = BTreeMap::from([
            (353, "marketplace_records_exist"),
            (360, "already_refunded"),
            (404, "not_found"),
            (501, "unsupported"),
            (542, "not_suitable"),
            (543, "not_suitable"),
            (544, "not_suitable"),
        ]);
        for row in integer_rows() {
            let expected = match row.class {
                "refused" => named.get(&row.code).copied().unwrap_or("invalid_request"),
                "refused_by_state" => named.get(&row.code).copied().unwrap_or("not_suitable"),
                _ => "-",
            };
            assert_eq!(row.reason, expected, "{row:?}");
        }
    }

    #[test]
    fn is_read_as_it_is_written() {
        for row in integer_rows().iter().filter(|row| row.class != "success") {
            let class = default_class_of_integer(row.code).unwrap();
            assert_eq!(
                (class.as_str(), class.reason().map_or("-", RejectedReason::as_str)),
                (row.class, row.reason)
            );
        }
    }

    #[test]
    fn lists_each_number_once_and_in_order() {
        let codes: Vec<i64> = integer_rows().iter().map(|row| row.code).collect();
        assert!(codes.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn covers_the_numbers_that_each_of_the_gateways_tables_has() {
        let general: BTreeSet<i64> = (-1..=401).chain(403..=404).chain(500..=558).collect();
        assert_eq!(numbers_of(A), (-1..=88).collect());
        assert_eq!(numbers_of(DOC), general);
        assert_eq!(numbers_of(SDK), general);
    }

    #[test]
    fn shifts_the_client_librarys_numbering_against_the_documented_one() {
        let rows: BTreeMap<i64, IntegerRow> = integer_rows().into_iter().map(|row| (row.code, row)).collect();
        for (code, row) in &rows {
            let same_as = match code {
                // What these mean to the library is not derived from the page.
                91 | 275..=280 | 341 => continue,
                92..=101 => code - 1,
                290..=340 => code + 1,
                _ => *code,
            };
            assert_eq!(row.readings[SDK], rows[&same_as].readings[DOC], "the library's {code}");
        }
    }

    #[test]
    fn reads_the_lines_that_decide_as_the_page_has_them() {
        let rows: BTreeMap<i64, IntegerRow> = integer_rows().into_iter().map(|row| (row.code, row)).collect();
        let check = |table: usize, word: &str, codes: &[i64]| {
            for code in codes {
                let read = rows[code].readings[table].map(|(word, _)| word);
                assert_eq!(read, Some(word), "{code} in table {table}");
            }
        };
        check(A, "success", &[0]);
        check(A, "ambiguous", &[-1, 1, 7, 62, 63, 64, 78, 88]);
        check(A, "reject", &[2, 3, 10, 17, 29, 34, 35, 45, 46, 65, 76]);
        check(A, "not-found", &[32, 73]);
        check(A, "auth", &[47, 77]);
        check(A, "auth/config", &[5, 6, 20, 24, 67, 87]);
        check(A, "retry", &[59, 60]);
        check(DOC, "success", &[0]);
        check(DOC, "ambiguous", &[-1, 1, 5, 91, 92, 93, 94, 95, 96, 97, 111, 359, 392, 500, 502, 504]);
        check(
            DOC,
            "reject",
            &[2, 37, 100, 101, 109, 112, 163, 166, 167, 269, 353, 373, 400, 501, 542, 543, 544],
        );
        check(DOC, "reject", &[555, 556, 557, 558]);
        check(DOC, "not-found", &[3, 56, 57, 297, 404]);
        check(DOC, "already", &[360]);
        check(DOC, "auth", &[4, 12, 64, 401, 403]);
        check(DOC, "auth/config", &[35, 66, 286, 541, 552]);
        check(DOC, "retry", &[503]);
    }

    #[test]
    fn lets_no_bare_integer_pause_anything_or_promise_that_nothing_happened() {
        for row in integer_rows() {
            assert!(!matches!(default_class_of_integer(row.code), Some(LockedOut | Busy)), "{row:?}");
        }
    }

    #[test]
    fn leaves_zero_to_the_reader_of_the_whole_reply() {
        assert_eq!(default_class_of_integer(0), None);
    }

    #[test]
    fn asks_before_telling_what_speaks_of_the_payments_state() {
        integers((91..=97).chain([269, 359]), RefusedByState(NotSuitable));
        integers([360], RefusedByState(AlreadyRefunded));
        integers([404], RefusedByState(NotFound));
    }

    #[test]
    fn refuses_for_good_only_what_every_table_refuses_for_good() {
        integers([353], Refused(MarketplaceRecordsExist));
        integers([501], Refused(Unsupported));
        integers([542, 543, 544], Refused(NotSuitable));
        let invalid =
            [2, 37].into_iter().chain(50..=53).chain(99..=110).chain([112, 113, 163, 166, 167, 373, 400]);
        integers(invalid.chain(555..=558), Refused(InvalidRequest));
        let refused = integer_rows().iter().filter(|row| row.class == "refused").count();
        assert_eq!(refused, 34, "a number that no test names is refused for good");
    }

    #[test]
    fn waits_where_something_is_not_configured() {
        integers([286, 401, 403, 541, 552], NotConfigured);
    }

    #[test]
    fn doubts_what_two_tables_read_differently() {
        // 3: unsupported provider, or no data. 56: the payment is not found, or an amount is wrong.
        integers([3, 4, 5, 6, 10, 12, 32, 35, 47, 56, 57, 64, 66, 73, 77, 98, 294, 295, 296, 297], InDoubt);
    }

    #[test]
    fn doubts_what_says_nothing_certain() {
        integers([-1, 1, 7, 62, 63, 78, 88, 111, 341, 392, 500, 502, 503, 504], InDoubt);
    }
}

mod the_table_of_messages {
    use super::*;

    #[test]
    fn gives_each_word_the_class_of_its_reading() {
        let mut exceptions = Vec::new();
        for [text, word, meaning, class, reason, exception] in cells(MESSAGES_TSV) {
            assert!(!meaning.is_empty() && meaning != "-", "{text} has no meaning");
            if exception != "-" {
                assert!(exception.starts_with("design.md §3: "), "an exception cites its source: {text}");
                exceptions.push((text, class, reason));
                continue;
            }
            let expected = match (word, class_of_word(word)) {
                ("auth", _) => ("locked_out", "-"),
                (_, "refused") => ("refused", "invalid_request"),
                (_, "refused_by_state") => ("refused_by_state", "not_found"),
                (_, other) => (other, "-"),
            };
            assert_eq!((class, reason), expected, "{text}");
        }
        assert_eq!(
            exceptions,
            [
                ("Payment.Async.NotConvenientStatusForThisOperation", "refused_by_state", "not_suitable"),
                ("Payment.Async.AlreadyHasRefundOrCancel", "refused_by_state", "not_suitable"),
            ]
        );
    }

    #[test]
    fn is_read_as_it_is_written() {
        for [text, _, _, class, reason, _] in cells(MESSAGES_TSV) {
            let read = default_class_of_message(text).unwrap();
            assert_eq!(
                (read.as_str(), read.reason().map_or("-", RejectedReason::as_str)),
                (class, reason),
                "{text}"
            );
        }
    }

    #[test]
    fn has_one_row_for_each_word_and_patterns_that_never_meet() {
        let texts: Vec<&str> = cells::<6>(MESSAGES_TSV).iter().map(|[text, ..]| *text).collect();
        assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), texts.len());
        let patterns: Vec<&str> = texts.iter().filter_map(|text| text.strip_suffix('*')).collect();
        assert_eq!(patterns, ["Connection.", "Terminal."]);
    }

    #[test]
    fn locks_out_for_one_word_alone() {
        let locked: Vec<&str> = cells::<6>(MESSAGES_TSV)
            .iter()
            .map(|[text, ..]| *text)
            .filter(|text| default_class_of_message(text) == Some(LockedOut))
            .collect();
        assert_eq!(locked, ["System.AuthError"]);
    }

    #[test]
    fn knows_the_words_of_the_page() {
        messages(&["Payment.Request.RequestNotFound", "Transaction.NotFound"], RefusedByState(NotFound));
        messages(
            &["Payment.Async.NotConvenientStatusForThisOperation", "Payment.Async.AlreadyHasRefundOrCancel"],
            RefusedByState(NotSuitable),
        );
        messages(&["System.ServerError", "Payment.Async.CloudNotSendToDevice"], InDoubt);
        messages(
            &["System.ValidationError", "Payment.Async.MerchantUniqueCodeAlreadyExists"],
            Refused(InvalidRequest),
        );
        messages(
            &["Connection.NotFound", "Connection.NotEqualConnection", "Connection.NotConnected"],
            NotConfigured,
        );
        messages(
            &["Connection.IsAsyncPaymentNotActive", "Terminal.NotFound", "Terminal.Pair.NotFound"],
            NotConfigured,
        );
    }

    #[test]
    fn lets_a_words_own_row_win_over_the_pattern() {
        messages(&["Terminal.FailedToGetTerminalList", "Transaction.FailedToGetTransactionList"], InDoubt);
        messages(&["Terminal.Tag.NotFound", "Connection.ServiceParametersInvalid"], Refused(InvalidRequest));
    }

    #[test]
    fn reads_an_unlisted_word_by_the_pattern_that_it_begins_with() {
        messages(&["Connection.Gone", "Terminal.Tag.Renamed", "Terminal.Pair.Lost"], NotConfigured);
    }

    #[test]
    fn knows_nothing_of_other_words() {
        for text in [
            "",
            "-",
            "Connection",
            "Terminals.NotFound",
            "system.autherror",
            "System.AuthError ",
            "Payment.Sync.Gone",
        ] {
            assert_eq!(default_class_of_message(text), None, "{text:?}");
        }
    }
}

mod a_reply {
    use super::*;

    const SILENT: ReplyCodes = ReplyCodes { http_status: 200, error_code: None, client_message: None };

    fn code(code: i64) -> ReplyCodes<'static> {
        ReplyCodes { error_code: Some(code), ..SILENT }
    }

    fn word(text: &str) -> ReplyCodes<'_> {
        ReplyCodes { client_message: Some(text), ..SILENT }
    }

    fn rule(api: Api, matcher: Matcher, kind: Option<Kind>, class: Class) -> Rule {
        Rule { api, matcher, kind, class }
    }

    #[track_caller]
    fn check(rules: &[Rule], api: Api, kind: Kind, codes: ReplyCodes, expected: Option<(Class, CodeSource)>) {
        let known = Codes::new(rules.to_vec()).class(api, kind, &codes);
        assert_eq!(known.map(|known| (known.class, known.source)), expected);
    }

    #[test]
    fn is_judged_by_the_table_where_no_rule_speaks() {
        let expected = Some((RefusedByState(NotFound), CodeSource::Integer(404)));
        check(&[], Api::Private, Kind::TransactionCancel, code(404), expected);
        check(&[], Api::Payment, Kind::ApmProvisionCancel, code(404), expected);
        check(&[], Api::Physical, Kind::AsyncCancel, code(404), expected);
    }

    #[test]
    fn of_the_physical_api_is_judged_by_its_word_before_its_integer() {
        let both = ReplyCodes { error_code: Some(404), ..word("System.ValidationError") };
        check(
            &[],
            Api::Physical,
            Kind::AsyncCancel,
            both,
            Some((Refused(InvalidRequest), CodeSource::Message("System.ValidationError"))),
        );
    }

    #[test]
    fn of_the_physical_api_is_judged_by_its_integer_where_the_word_is_unknown() {
        let both = ReplyCodes { error_code: Some(404), ..word("Payment.Sync.Gone") };
        check(
            &[],
            Api::Physical,
            Kind::AsyncCancel,
            both,
            Some((RefusedByState(NotFound), CodeSource::Integer(404))),
        );
    }

    #[test]
    fn of_another_api_is_not_judged_by_words_of_the_physical_one() {
        check(&[], Api::Private, Kind::TransactionCancel, word("System.AuthError"), None);
        check(&[], Api::Payment, Kind::BatchCancel, word("System.AuthError"), None);
    }

    #[test]
    fn without_a_known_code_is_not_known() {
        let refusing_status = ReplyCodes { http_status: 401, ..SILENT };
        for codes in [SILENT, refusing_status, code(402), code(0), word("Success")] {
            check(&[], Api::Physical, Kind::SyncCancelRollback, codes, None);
        }
    }

    #[test]
    fn is_judged_by_a_rule_before_the_table() {
        let rules = [
            rule(Api::Private, Matcher::Code(404), None, InDoubt),
            rule(Api::Physical, Matcher::ClientMessage("System.AuthError".into()), None, NotConfigured),
            rule(Api::Payment, Matcher::HttpStatus(502), None, Busy),
        ];
        check(&rules, Api::Private, Kind::TransactionCancel, code(404), Some((InDoubt, CodeSource::Rule(1))));
        let auth_error = word("System.AuthError");
        check(
            &rules,
            Api::Physical,
            Kind::AsyncCancel,
            auth_error,
            Some((NotConfigured, CodeSource::Rule(2))),
        );
        let bad_gateway = ReplyCodes { http_status: 502, ..code(353) };
        check(&rules, Api::Payment, Kind::BatchCancel, bad_gateway, Some((Busy, CodeSource::Rule(3))));
    }

    #[test]
    fn is_judged_by_the_first_rule_that_matches() {
        let rules = [
            rule(Api::Physical, Matcher::Code(1), None, LockedOut),
            rule(Api::Physical, Matcher::HttpStatus(200), None, Refused(RollbackRefused)),
            rule(Api::Physical, Matcher::Code(2), None, Busy),
        ];
        check(
            &rules,
            Api::Physical,
            Kind::AsyncCancel,
            code(2),
            Some((Refused(RollbackRefused), CodeSource::Rule(2))),
        );
    }

    #[test]
    fn is_not_judged_by_a_rule_for_another_api() {
        let rules = [rule(Api::Private, Matcher::Code(404), None, Busy)];
        let expected = Some((RefusedByState(NotFound), CodeSource::Integer(404)));
        check(&rules, Api::Payment, Kind::ApmProvisionCancel, code(404), expected);
    }

    #[test]
    fn is_judged_by_a_rule_for_its_kind_only() {
        let too_late = "Payment.Async.NotConvenientStatusForThisOperation";
        let matcher = Matcher::ClientMessage(too_late.into());
        let declared = RefusedByState(DeviceReceived);
        let rules = [rule(Api::Physical, matcher, Some(Kind::SyncCancelRollback), declared)];
        check(
            &rules,
            Api::Physical,
            Kind::SyncCancelRollback,
            word(too_late),
            Some((declared, CodeSource::Rule(1))),
        );
        let by_table = Some((RefusedByState(NotSuitable), CodeSource::Message(too_late)));
        check(&rules, Api::Physical, Kind::AsyncCancel, word(too_late), by_table);
    }

    #[test]
    fn is_not_judged_by_a_rule_for_another_http_status() {
        let rules = [rule(Api::Private, Matcher::HttpStatus(502), None, Busy)];
        let expected = Some((RefusedByState(NotFound), CodeSource::Integer(404)));
        check(&rules, Api::Private, Kind::TransactionCancel, code(404), expected);
    }

    #[test]
    fn is_compared_with_a_rule_to_the_letter() {
        let rules = [rule(Api::Payment, Matcher::ClientMessage("Bulk.Locked".into()), None, Busy)];
        check(
            &rules,
            Api::Payment,
            Kind::BatchCancel,
            word("Bulk.Locked"),
            Some((Busy, CodeSource::Rule(1))),
        );
        check(&rules, Api::Payment, Kind::BatchCancel, word("bulk.locked"), None);
        check(&rules, Api::Payment, Kind::BatchCancel, word("Bulk.Locked."), None);
    }

    proptest! {
        #[test]
        fn with_a_number_that_no_table_has_is_not_known(number: i64) {
            let listed = integer_rows().iter().any(|row| row.code == number && row.class != "success");
            prop_assert_eq!(default_class_of_integer(number).is_some(), listed);
        }

        #[test]
        fn with_a_number_near_the_tables_is_known_only_if_listed(number in -600_i64..1200) {
            let listed = integer_rows().iter().any(|row| row.code == number && row.class != "success");
            prop_assert_eq!(default_class_of_integer(number).is_some(), listed);
        }

        #[test]
        fn of_any_word_and_number_never_pauses_an_api_but_for_one_word(
            number: i64,
            text in "[A-Za-z.]{0,40}|System[.]AuthError",
        ) {
            let codes = ReplyCodes { error_code: Some(number), ..word(&text) };
            let known = Codes::default().class(Api::Physical, Kind::AsyncCancel, &codes);
            let paused = matches!(known, Some(Classified { class: LockedOut, .. }));
            prop_assert_eq!(paused, text == "System.AuthError");
        }
    }
}

mod the_name_of_a_class {
    use super::*;

    #[test]
    fn reads_back_as_the_class() {
        let classes =
            [Refused(NotFound), RefusedByState(NotSuitable), Busy, InDoubt, LockedOut, NotConfigured];
        for class in classes {
            assert_eq!(Class::parse(class.as_str(), class.reason()), Ok(class));
        }
    }

    #[test]
    fn needs_a_reason_exactly_where_it_refuses() {
        for word in ["refused", "refused_by_state"] {
            assert_eq!(Class::parse(word, None), Err(ClassError::ReasonMissing), "{word}");
        }
        for word in ["busy", "in_doubt", "locked_out", "not_configured"] {
            assert_eq!(Class::parse(word, Some(NotFound)), Err(ClassError::ReasonUnused), "{word}");
        }
    }

    #[test]
    fn is_never_a_success() {
        for word in ["success", "done", "cancelled", "Refused", ""] {
            for reason in [None, Some(NotFound)] {
                assert_eq!(Class::parse(word, reason), Err(ClassError::UnknownClass), "{word:?}");
            }
        }
    }
}
