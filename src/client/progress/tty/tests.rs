//! The pictures, on a terminal of a known size.

use super::*;
use crate::client::progress::updates::{Clock, Update};

/// A terminal on which a command was typed, with the picture below.
struct Terminal {
    parser: vt100::Parser,
    size: Size,
    clock: Clock,
    model: Model,
    tty: Tty,
}

impl Terminal {
    fn new(columns: usize, rows: usize) -> Self {
        let clock = Clock::start();
        let tty = Tty::new(clock.at(0), true);
        let mut parser = vt100::Parser::new(cells(rows), cells(columns), 1000);
        parser.process(b"$ wharf build .\r\n");
        Self { parser, size: Size { columns, rows }, clock, model: Model::default(), tty }
    }

    fn resize(&mut self, columns: usize, rows: usize) {
        self.size = Size { columns, rows };
        self.parser.screen_mut().set_size(cells(rows), cells(columns));
    }

    /// Applies the update, and draws the picture for this time.
    fn see(&mut self, millis: u64, update: Update) {
        self.model.apply(&update.0);
        self.model.tick(self.clock.at(millis));
        self.tty.now = self.clock.at(millis);
        let picture = self.tty.draw(&self.model, self.size);
        self.show(&picture);
    }

    fn finish(&mut self) {
        let picture = self.tty.draw_last(&self.model, self.size);
        self.show(&picture);
    }

    fn show(&mut self, picture: &str) {
        // The kernel's terminal driver does this.
        self.parser.process(picture.replace('\n', "\r\n").as_bytes());
        assert!(!self.parser.screen().hide_cursor());
    }

    fn screen(&self) -> String {
        self.parser.screen().contents()
    }
}

fn cells(count: usize) -> std::num::NonZeroU16 {
    u16::try_from(count).unwrap().try_into().unwrap()
}

fn layers() -> Update {
    let digest = format!("sha256:{}", "3f".repeat(32));
    Update::new()
        .started("wharf:1", "pull docker.io/library/busybox:1", 100)
        .status("wharf:1", &digest, (12_345_678, 50_000_000), (100, None))
        .status("wharf:1", "config", (2_000, 2_000), (100, Some(300)))
}

#[test]
fn a_running_build_looks_as_buildx_draws_it() {
    let mut terminal = Terminal::new(80, 24);
    let load = "[internal] load build context";
    terminal.see(
        50,
        Update::new().announced("b", "[1/2] FROM busybox").done("a", load, 0, 40).status(
            "a",
            "transferring context:",
            (12_300_000, 0),
            (0, Some(40)),
        ),
    );
    terminal.see(1200, layers());
    terminal.see(
        1300,
        Update::new().cached("b", "[1/2] FROM busybox", 1200).started("c", "[2/2] RUN make", 1250).log(
            "c",
            1300,
            "1\n2\n3\n4\n5\n\n\tsix\n\x1b[31mseven\x1b[0m\nlinking",
        ),
    );
    let expected = "\
$ wharf build .
[+] Building 1.3s (2/4)
 => [internal] load build context                                          0.0s
 => => transferring context: 12.30MB                                       0.0s
 => pull docker.io/library/busybox:1                                       1.2s
 => => sha256:3f3f3f3f3f3f [====>               ] 12.35MB / 50.00MB        1.2s
 => => config 2.00kB / 2.00kB                                              0.2s
 => CACHED [1/2] FROM busybox                                              0.0s
 => [2/2] RUN make                                                         0.1s
 => => # 3
 => => # 4
 => => # 5
 => => #         six
 => => # seven
 => => # linking
";
    assert_eq!(terminal.screen(), expected.trim_end());
    terminal.see(1400, Update::new());
    terminal.see(1500, Update::new().failed("c", "[2/2] RUN make", 1250, 1450, "exit code: 1"));
    terminal.see(1600, Update::new().done("wharf:1", "pull docker.io/library/busybox:1", 100, 1600));
    terminal.finish();
    let expected = "\
$ wharf build .
[+] Building 1.6s (4/4) FINISHED
 => [internal] load build context                                          0.0s
 => => transferring context: 12.30MB                                       0.0s
 => pull docker.io/library/busybox:1                                       1.5s
 => => sha256:3f3f3f3f3f3f 12.35MB / 50.00MB                               1.5s
 => => config 2.00kB / 2.00kB                                              0.2s
 => CACHED [1/2] FROM busybox                                              0.0s
 => ERROR [2/2] RUN make                                                   0.2s
";
    assert_eq!(terminal.screen(), expected.trim_end());
    assert_eq!(terminal.parser.screen().cursor_position(), (9, 0));
}

#[test]
fn many_steps_fit_the_height_and_all_stand_at_the_end() {
    let mut terminal = Terminal::new(60, 10);
    for step in 0..100 {
        let (digest, name) = (format!("d{step}"), format!("step {step}"));
        // The first two steps keep running.
        let update = Update::new().started(&digest, &name, step * 10);
        terminal.see(
            step * 10,
            if step < 2 { update } else { update.done(&digest, &name, step * 10, step * 10) },
        );
        let screen = terminal.screen();
        assert!(screen.contains("=> step 0 ") && (step < 1 || screen.contains("=> step 1 ")), "{screen}");
        assert_eq!(screen.matches("[+] Building").count(), 1, "{screen}");
    }
    let screen = terminal.screen();
    assert!(screen.contains("step 99 ") && !screen.contains("step 50 "), "{screen}");
    terminal.finish();
    terminal.parser.screen_mut().set_scrollback(1000);
    let mut seen = String::new();
    for offset in (0..200).rev() {
        terminal.parser.screen_mut().set_scrollback(offset);
        seen += &terminal.parser.screen().contents();
    }
    assert!((0..100).all(|step| seen.contains(&format!("=> step {step} "))));
}

#[test]
fn output_yields_to_steps_and_steps_to_the_height() {
    let mut terminal = Terminal::new(60, 8);
    let mut update = Update::new();
    for step in 0..4 {
        let digest = format!("d{step}");
        update = update.started(&digest, &format!("step {step}"), 0).log(&digest, 0, "1\n2\n3\n4\n");
    }
    terminal.see(0, update);
    let screen = terminal.screen();
    // Two rows are free for output, and the last step gets them.
    assert!(screen.ends_with("=> # 3\n => => # 4"), "{screen}");
    assert_eq!(screen.matches("=> #").count(), 2, "{screen}");
    for rows in 1..6 {
        terminal.resize(60, rows);
        terminal.see(0, Update::new());
        assert!(terminal.tty.rows.len() < rows.max(2), "{rows}: {:?}", terminal.tty.rows);
    }
}

#[test]
fn a_resized_terminal_is_drawn_anew() {
    let mut terminal = Terminal::new(80, 24);
    terminal.see(0, layers());
    for columns in [40, 100, 12, 5, 1, 30, 80] {
        terminal.resize(columns, 24);
        terminal.see(100, Update::new());
        let screen = terminal.screen();
        if columns >= 12 {
            assert_eq!(screen.matches("[+] Buildi").count(), 1, "{columns}: {screen}");
        }
        assert!(terminal.tty.rows.iter().all(|width| *width < columns.max(1) || columns == 1), "{screen}");
    }
    assert!(terminal.screen().contains("[>") || terminal.screen().contains("[==="), "{}", terminal.screen());
}

#[test]
fn a_narrow_terminals_wrapped_rows_are_all_taken_back() {
    let mut terminal = Terminal::new(80, 24);
    terminal.see(0, layers());
    assert_eq!(terminal.tty.rows, [23, 79, 79, 79]);
    let picture = terminal.tty.draw(&terminal.model, Size { columns: 40, rows: 24 });
    // tmux and most other terminals reflow like this: each full row has become two.
    assert!(picture.starts_with("\x1b[?25l\x1b[?7l\r\x1b[7A\x1b[J"), "{picture:?}");
}

#[test]
fn wide_characters_count_twice() {
    let mut terminal = Terminal::new(40, 10);
    terminal.see(0, Update::new().started("a", &"日本".repeat(20), 0).started("b", "e\u{301}te\u{301}", 0));
    let rows: Vec<String> = terminal.parser.screen().rows(0, 40).collect();
    assert!(rows[2].starts_with(" => 日本日本") && rows[2].ends_with("...  0.0s"), "{rows:?}");
    assert_eq!(terminal.tty.rows, [23, 39, 39]);
}

#[test]
fn frames_are_not_drawn_faster_than_they_are_seen() {
    let clock = Clock::start();
    let mut tty = Tty::new(clock.at(0), true);
    let model = Model::default();
    let drawn = (0..1000).filter(|millis| !tty.frame(&model, clock.at(*millis)).is_empty()).count();
    assert_eq!(drawn, 10);
}

#[test]
fn bars_fill() {
    assert_eq!(bar_of(0, 10), "[>                   ]");
    assert_eq!(bar_of(5, 10), "[==========>         ]");
    assert_eq!(bar_of(10, 10), "[====================]");
    assert_eq!(bar_of(u64::MAX, 1), "[====================]");
    assert_eq!(bar_of(u64::MAX - 1, u64::MAX), "[===================>]");
}

#[test]
fn a_build_that_waits_for_its_turn_shows_its_place() {
    let mut terminal = Terminal::new(60, 10);
    terminal.see(0, Update::new().started("wharf:1", "wait for a turn", 0).waits("wharf:1", 12));
    assert!(terminal.screen().contains(" => wait for a turn: 12 builds are ahead"), "{}", terminal.screen());
    terminal.see(1000, Update::new().waits("wharf:1", 11));
    assert!(terminal.screen().contains(" => wait for a turn: 11 builds are ahead"), "{}", terminal.screen());
    terminal.see(2000, Update::new().done("wharf:1", "wait for a turn", 0, 2000));
    assert!(!terminal.screen().contains("ahead"), "{}", terminal.screen());
}
