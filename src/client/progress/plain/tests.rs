//! The lines, for updates in any order.

use super::*;
use crate::client::progress::updates::{Clock, Update};

/// A plain console with a model and a clock.
struct Console {
    clock: Clock,
    model: Model,
    plain: Plain,
    text: String,
}

impl Console {
    fn new() -> Self {
        let clock = Clock::start();
        let plain = Plain::new(clock.at(0));
        Self { clock, model: Model::default(), plain, text: String::new() }
    }

    /// Applies the update at this time.
    fn see(&mut self, millis: u64, update: Update) {
        let changes = self.model.apply(&update.0);
        self.text += &self.plain.update(&self.model, changes);
        self.tick(millis);
    }

    fn tick(&mut self, millis: u64) {
        self.model.tick(self.clock.at(millis));
        self.text += &self.plain.tick(&self.model, self.clock.at(millis));
    }

    fn finish(&mut self) -> String {
        self.text += &self.plain.finish(&self.model);
        std::mem::take(&mut self.text)
    }
}

#[test]
fn a_build_looks_as_buildx_shows_it() {
    let mut console = Console::new();
    let load = "[internal] load build definition from Dockerfile";
    console.see(0, Update::new().announced("a", load).started("a", load, 0));
    console.see(
        40,
        Update::new().status("a", "transferring dockerfile:", (154, 0), (0, Some(30))).done("a", load, 0, 40),
    );
    let pull = "pull docker.io/library/busybox:1@sha256:77";
    console.see(50, Update::new().started("wharf:1", "pull docker.io/library/busybox:1", 50));
    console.see(60, Update::new().started("wharf:1", pull, 50));
    console.see(2000, Update::new().status("wharf:1", "sha256:aa", (12_345_678, 50_000_000), (60, None)));
    console.see(2100, Update::new().status("wharf:1", "sha256:aa", (13_000_000, 50_000_000), (60, None)));
    console.see(
        4000,
        Update::new()
            .status("wharf:1", "sha256:aa", (50_000_000, 50_000_000), (60, Some(3900)))
            .done("wharf:1", pull, 50, 3950),
    );
    console.see(
        4050,
        Update::new().announced("c", "[2/3] RUN make").cached("b", "[1/3] FROM busybox:1", 4010).started(
            "c",
            "[2/3] RUN make",
            4050,
        ),
    );
    console.see(4400, Update::new().log("c", 4362, "cc -c a.c\ncc -").log("c", 4399, "o a a.o\n"));
    console.see(17_250, Update::new().log("c", 17_200, "linked").done("c", "[2/3] RUN make", 4050, 17_250));
    assert_eq!(
        console.finish(),
        "\
#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 154B 0.0s done
#1 DONE 0.0s

#2 pull docker.io/library/busybox:1
#2 pull docker.io/library/busybox:1@sha256:77
#2 sha256:aa 12.35MB / 50.00MB 1.9s
#2 sha256:aa 50.00MB / 50.00MB 3.8s done
#2 DONE 3.9s

#3 [1/3] FROM busybox:1
#3 CACHED

#4 [2/3] RUN make
#4 0.312 cc -c a.c
#4 0.312 cc -o a a.o
#4 13.15 linked
#4 DONE 13.2s
"
    );
}

#[test]
fn one_step_speaks_until_another_has_waited() {
    let mut console = Console::new();
    console.see(0, Update::new().started("a", "A", 0).started("b", "B", 0));
    console.see(1000, Update::new().log("a", 1000, "a1\n").log("b", 1000, "b1\n"));
    console.see(2000, Update::new().log("b", 2000, "b2\n").log("a", 2000, "a2\n"));
    console.tick(5100);
    console.see(6000, Update::new().log("a", 6000, "a3\n").log("b", 6000, "b3\n"));
    // A step that ends interrupts the speaking step.
    console.see(7000, Update::new().cached("c", "C", 7000));
    console.see(7100, Update::new().failed("a", "A", 0, 7100, "exit code: 1"));
    console.see(7200, Update::new().failed("b", "B", 0, 7100, "process: context canceled"));
    assert_eq!(
        console.finish(),
        "\
#1 A
#1 1.000 a1
#1 2.000 a2
#1 ...

#2 B
#2 1.000 b1
#2 2.000 b2
#2 6.000 b3
#2 ...

#3 C
#3 CACHED

#1 A
#1 6.000 a3
#1 ERROR: exit code: 1

#2 B
#2 CANCELED
"
    );
}

#[test]
fn what_happens_at_once_is_told_in_order() {
    let mut console = Console::new();
    let (model, plain) = (&mut console.model, &mut console.plain);
    for update in [Update::new().started("a", "A", 0), Update::new().cached("b", "B", 3).cached("c", "C", 2)]
    {
        let changes = model.apply(&update.0);
        assert_eq!(plain.update(model, changes), "");
    }
    console.see(50, Update::new().done("a", "A", 0, 50));
    assert_eq!(console.finish(), "#1 A\n#1 DONE 0.1s\n\n#2 B\n#2 CACHED\n\n#3 C\n#3 CACHED\n");
}

#[test]
fn a_step_that_runs_again_at_once_is_not_repeated() {
    let mut console = Console::new();
    console.see(0, Update::new().done("a", "A", 0, 100));
    console.see(500, Update::new().done("a", "A", 400, 410));
    console.see(900, Update::new().done("a", "A", 500, 900));
    assert_eq!(console.finish(), "#1 A\n#1 DONE 0.1s\n\n#1 A\n#1 DONE 0.5s\n");
}

#[test]
fn much_output_does_not_wait_and_none_is_lost() {
    let mut console = Console::new();
    console.see(0, Update::new().started("a", "A", 0).started("b", "B", 0));
    let lines: String = (0..20_000).map(|line| format!("line {line}\n")).collect();
    for piece in lines.as_bytes().chunks(1000) {
        console.see(0, Update::new().log("b", 0, piece));
        assert!(console.plain.waiting_bytes <= WAITING_BYTES_MAX);
    }
    console.see(1, Update::new().done("b", "B", 0, 1));
    let text = console.finish();
    let shown: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#2 0.000 ")).collect();
    assert_eq!(shown, lines.lines().collect::<Vec<_>>());
    assert_eq!(console.plain.waiting_bytes, 0);
}

#[test]
fn a_line_without_end_is_shown_after_a_while() {
    let mut console = Console::new();
    console.see(0, Update::new().started("a", "A", 0).log("a", 0, "Continue? [y/n] "));
    console.tick(4000);
    assert_eq!(console.text, "#1 A\n");
    console.tick(5000);
    console.tick(20_000);
    console.see(21_000, Update::new().log("a", 21_000, "\nnext: 10%"));
    console.tick(30_000);
    console.see(31_000, Update::new().log("a", 31_000, "\rnext: 100%\n").done("a", "A", 0, 31_000));
    assert_eq!(
        console.finish(),
        "#1 A\n#1 0.000 Continue? [y/n] \n#1 21.00 next: 10%\n#1 21.00 next: 100%\n#1 DONE 31.0s\n"
    );
}

#[test]
fn warnings_come_with_their_step_or_alone() {
    let mut console = Console::new();
    console.see(0, Update::new().warning("", "# syntax= is ignored", 1).started("a", "A", 0));
    console.see(0, Update::new().warning("a", "stage name is upper case (line 3)", 3));
    // A second pass of the frontend repeats the warning.
    console.see(0, Update::new().warning("a", "stage name is upper case (line 3)", 3));
    assert_eq!(
        console.finish(),
        "WARN: # syntax= is ignored (line 1)\n\n#1 A\n#1 WARN: stage name is upper case (line 3)\n"
    );
}

#[test]
fn a_build_that_waits_for_its_turn_has_few_lines() {
    let mut console = Console::new();
    console.see(0, Update::new().started("wharf:1", "wait for a turn", 0).waits("wharf:1", 100));
    for ahead in (0..100).rev() {
        console.see(1000 * (100 - u64::from(ahead)), Update::new().waits("wharf:1", ahead));
    }
    // Builds that come later may have their turns earlier.
    console.see(101_000, Update::new().waits("wharf:1", 1));
    console.see(102_000, Update::new().waits("wharf:1", 1));
    console.see(103_000, Update::new().done("wharf:1", "wait for a turn", 0, 103_000).waits("wharf:1", 0));
    let expected = "#1 wait for a turn\n#1 100 builds are ahead\n#1 50 builds are ahead\n#1 25 builds are ahead\n\
                    #1 12 builds are ahead\n#1 6 builds are ahead\n#1 3 builds are ahead\n#1 1 build is ahead\n\
                    #1 no build is ahead\n#1 1 build is ahead\n#1 DONE 103.0s\n";
    assert_eq!(console.finish(), expected);
}
