use super::*;

fn text(text: &str) -> v1::Value {
    v1::Value { kind: Some(Kind::Text(text.into())) }
}

fn integer(integer: u64) -> v1::Value {
    v1::Value { kind: Some(Kind::Integer(integer)) }
}

fn answer(rows: &[(&str, u64)]) -> v1::Answer {
    v1::Answer {
        columns: vec!["url".into(), "views".into()],
        rows: rows.iter().map(|&(url, views)| v1::Row { values: vec![text(url), integer(views)] }).collect(),
        facts: Some(v1::Facts { complete: true, ..v1::Facts::default() }),
    }
}

fn model() -> Model {
    let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
    Model::new(v1::Query {
        site: "s.de".into(),
        measures: texts(&["views", "visitors"]),
        group_by: texts(&["url"]),
        ..v1::Query::default()
    })
}

fn keys(model: &mut Model, text: &str) -> Effect {
    text.chars().map(|letter| model.key(Key::Char(letter))).last().unwrap()
}

#[test]
fn the_selected_row_becomes_a_condition_that_can_be_taken_back() {
    let mut model = model();
    model.answered(&answer(&[("/a", 3), ("/b", 2)]), std::iter::empty());
    model.key(Key::Down);
    model.key(Key::Down);
    assert_eq!(model.key(Key::Enter), Effect::Ask);
    assert_eq!(model.questions()[0].filters[0].r#in, ["/b"]);
    assert!(model.answer.is_none());
    assert_eq!(model.key(Key::Back), Effect::Ask);
    assert!(model.questions()[0].filters.is_empty());
    assert_eq!(model.key(Key::Back), Effect::Draw);
    assert!(model.message.is_some());
}

#[test]
fn conditions_of_the_command_line_stay() {
    let filter = v1::Filter { dimension: "device".into(), r#in: vec!["tv".into()], ..v1::Filter::default() };
    let mut model = Model::new(v1::Query { filters: vec![filter], ..v1::Query::default() });
    assert_eq!(model.key(Key::Back), Effect::Draw);
    assert_eq!(model.question.filters.len(), 1);
}

#[test]
fn a_condition_is_typed_and_letters_are_no_commands_meanwhile() {
    let mut model = model();
    keys(&mut model, "/device=qx");
    model.key(Key::Back);
    assert_eq!(model.key(Key::Enter), Effect::Ask);
    assert_eq!(model.question.filters[0].r#in, ["q"]);

    keys(&mut model, "/device");
    assert_eq!(model.key(Key::Enter), Effect::Draw);
    assert!(model.message.as_ref().unwrap().contains("is no condition"));
    keys(&mut model, "/x");
    assert_eq!(model.key(Key::Escape), Effect::Draw);
    assert_eq!(model.input, None);
}

#[test]
fn keys_go_through_groups_orders_and_ranges() {
    let mut model = model();
    assert_eq!(keys(&mut model, "g"), Effect::Ask);
    assert_eq!(model.question.group_by, ["referrer"]);
    keys(&mut model, "gggg");
    assert!(model.question.group_by.is_empty());
    keys(&mut model, "g");
    assert_eq!(model.question.group_by, ["url"]);

    keys(&mut model, "s");
    assert_eq!(model.question.order_by, "visitors");
    keys(&mut model, "1");
    assert_eq!(model.question.order_by, "views");
    assert_eq!(keys(&mut model, "9"), Effect::Draw);

    keys(&mut model, "+");
    assert_eq!(model.question.from, "-6h");
    keys(&mut model, "---------");
    assert_eq!(model.question.from, "-5m");
    model.question.to = "2026-01-01T00:00:00Z".into();
    assert_eq!(keys(&mut model, "+"), Effect::Draw);
}

#[test]
fn trends_are_asked_for_the_rows_that_are_shown_and_put_beside_them() {
    let mut model = model();
    assert_eq!(model.questions().len(), 1);
    assert_eq!(model.answered(&answer(&[("/a", 3), ("/b", 2)]), std::iter::empty()), Effect::Ask);
    let trend = &model.questions()[1];
    assert_eq!(
        (trend.granularity.as_str(), trend.filters[0].r#in.as_slice()),
        ("5m", &["/a".to_owned(), "/b".to_owned()][..])
    );
    // The same rows in another order are no reason to ask again.
    assert_eq!(model.answered(&answer(&[("/b", 4), ("/a", 3)]), std::iter::empty()), Effect::Draw);

    let row = |time: &str, url: &str, views| v1::Row { values: vec![text(time), text(url), integer(views)] };
    let rows = vec![row("10:00", "/a", 1), row("10:05", "/b", 7), row("10:10", "/a", 2)];
    model.trended(&v1::Answer { rows, ..v1::Answer::default() });
    assert_eq!(model.trends["/a"], [1, 0, 2]);
    assert_eq!(model.trends["/b"], [0, 7, 0]);
}

#[test]
fn a_row_that_changed_is_marked_for_a_while() {
    let mut model = model();
    let answer = answer(&[("/a", 3)]);
    model.answered(&answer, ["/a".to_owned()].into_iter());
    assert!(model.is_marked(&answer.rows[0]));
    (0..MARKED).for_each(|_| model.tick());
    assert!(!model.is_marked(&answer.rows[0]));
}

#[test]
fn what_is_paused_stands_still() {
    let mut model = model();
    model.answered(&answer(&[("/a", 3)]), std::iter::empty());
    keys(&mut model, "p");
    model.answered(&answer(&[("/a", 9)]), std::iter::empty());
    assert_eq!(model.answer, Some(answer(&[("/a", 3)])));
    assert_eq!(keys(&mut model, "q"), Effect::Quit);
}

#[test]
fn a_question_that_cannot_be_gives_way_to_the_last_one_that_could() {
    let mut model = model();
    assert!(!model.go_back());
    model.answered(&answer(&[("/a", 3)]), std::iter::empty());
    keys(&mut model, "/nosuch=1");
    model.key(Key::Enter);
    assert!(model.go_back());
    assert!(model.question.filters.is_empty());
    assert!(!model.go_back());
}

#[test]
fn the_selection_goes_where_its_row_goes() {
    let mut model = model();
    model.answered(&answer(&[("/a", 3), ("/b", 2), ("/c", 1)]), std::iter::empty());
    model.key(Key::Down);
    model.answered(&answer(&[("/c", 9), ("/a", 3), ("/b", 2)]), std::iter::empty());
    assert_eq!(model.key(Key::Enter), Effect::Ask);
    assert_eq!(model.questions()[0].filters[0].r#in, ["/b"]);
}
