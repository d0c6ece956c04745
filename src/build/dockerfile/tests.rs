use super::*;

pub(super) fn bytes(bytes: u64) -> Size {
    Size { bytes, dashes: 0 }
}

fn given(argument: u64) -> ReadingRules {
    ReadingRules { arguments: HashMap::from([("a".to_owned(), bytes(argument))]), ..ReadingRules::default() }
}

pub(super) fn builtin(version: (u32, u32)) -> ReadingRules {
    ReadingRules { frontend: Frontend::Builtin(Some(version)), ..ReadingRules::default() }
}

pub(super) fn judge(text: &[u8], rules: ReadingRules) -> Result<(), String> {
    Judge::new(rules).read("", text.to_vec())
}

#[test]
fn arguments_alone_are_nothing_for_the_engines_own_frontend() {
    let builtin = ReadingRules { frontend: Frontend::Builtin(None), ..ReadingRules::default() };
    for text in [
        "ARG A=1",
        "\u{feff}# word\r\n\targ A\r\n",
        "ARG A=1\rFROM busybox\r",
        "ARG A \\\nFROM busybox",
        "ARG A \\\n\n# a word\n\nFROM busybox\n",
        "ARG A \\ \t\r\nFROM busybox\n",
        "\\\nARG A\n",
        // A comment ends the directives.
        "# a word\n# escape=`\nARG A \\\nFROM busybox\n",
        "# escape=`\nARG A `\nFROM busybox\n",
        "# escape =\t`\n# other=x\nARG A `\nFROM busybox\n",
    ] {
        assert!(judge(text.as_bytes(), builtin.clone()).unwrap_err().contains("no `FROM`"), "{text}");
        assert_eq!(judge(text.as_bytes(), given(0)), Ok(()), "{text}");
    }
    for text in [
        "",
        "# a word\n",
        "FROM scratch",
        "ARG A\nFROM $A",
        "ARG A=C:\\\\\nFROM busybox\n",
        "# escape=`\nARG A=C:\\\nFROM busybox\n",
        "# word\n\n  from scratch\n",
        // BuildKit says what is wrong.
        "RUN true",
        "ARG A\nRUN <<EOF\nFROM x\nEOF\n",
    ] {
        assert_eq!(judge(text.as_bytes(), builtin.clone()), Ok(()), "{text}");
    }
}

#[track_caller]
fn refused(text: &str, why: &str) {
    let refused = judge(text.as_bytes(), given(0)).unwrap_err();
    assert!(refused.contains(why), "{refused}");
}

#[test]
fn what_doubles_is_refused_with_its_line() {
    let doubling = |line: &str| format!("FROM scratch\nENV a=aaaaaaaaaaaaaaaa\n{}", line.repeat(25));
    refused(&doubling("ENV a=$a$a\n"), "line 18: the value of a variable");
    for line in [
        "ENV a=${a}$a\n",
        "env  a \\\n # between\n $a$a\n",
        "ENV a=\"x b=$a $a\"\n",
        "ARG a=$a$a\n",
        "ONBUILD ENV a=$a$a\n",
        "ENV a=${a:-x}${a:+$a}\n",
        "ENV b=$a$a\nENV a=$b\n",
    ] {
        refused(&doubling(line), "the value of a variable");
    }
    refused(&format!("# escape=`\n{}", doubling("ENV a=`\n$a$a\n")), "the value of a variable");
    // Each byte of a text is replaced by another text.
    refused(
        &format!("ENV a={}\nENV a=${{a//a/$a}}\nENV a=${{a//a/$a}}\n", "a".repeat(4000)),
        "the value of a variable",
    );
    refused(&format!("ENV a={}\nRUN {}", "a".repeat(100_000), "$a".repeat(1000)), "line 2: with its");
    refused(&format!("LABEL a={}", "$x".repeat(300_000)), "with its variables replaced");
}

#[test]
fn a_long_build_argument_counts() {
    let text = format!("FROM scratch\nARG a\nLABEL {}", "x=$a ".repeat(1000));
    assert_eq!(judge(text.as_bytes(), given(0)), Ok(()));
    assert!(judge(text.as_bytes(), given(100_000)).unwrap_err().contains("line 3: with its variables"));
    assert_eq!(judge(b"ARG a\nENV b=x\n", given(3 << 20)), Ok(()));
}

#[test]
fn what_nests_is_refused() {
    let nested = |depth: usize| format!("ENV a={}x{}", "${a:-".repeat(depth), "}".repeat(depth));
    refused(&nested(1025), "line 1: more than 1024");
    refused(&format!("FROM x\nRUN {}", "${".repeat(1100)), "line 2: more than 1024");
    let quoted = format!("ENV a={}x{}", "${a:-'}'\"}\"".repeat(1025), "}".repeat(1025));
    refused(&quoted, "more than 1024");
    assert_eq!(judge(format!("RUN {}", "${a}".repeat(2000)).as_bytes(), given(0)), Ok(()));
    // A word that may name a here-document is read by the lexer.
    refused(&format!("RUN {} <<E\nE\n", "${a:-".repeat(300)), "line 1: the name of a here-document");
    assert_eq!(judge(nested(20).as_bytes(), given(0)), Ok(()));
}

#[test]
fn real_ones_are_let_through() {
    let path = "ENV PATH=/opt/x/bin:$PATH HOME=\"/a b\" X='${PATH}'\n".repeat(100);
    let steps = "RUN a=${b} && echo \"$a$a\" \\\n # why\n && true\n".repeat(20_000);
    let platform = "ARG P\nENV Q=${P//\\//-}${P:-x}\n".repeat(100);
    for text in
        ["", "FROM scratch", "FROM a\r\nENV a b $c\r\n", "ENV", "ENV =", "ARG", &path, &steps, &platform]
    {
        assert_eq!(judge(text.as_bytes(), given(1000)), Ok(()), "{}", text.get(..20).unwrap_or(text));
    }
    let stages: String = (0..60)
        .map(|n| format!("FROM s{n} AS s{}\n{}", n + 1, "RUN echo a line as usual\n".repeat(20)))
        .collect();
    assert_eq!(judge(stages.as_bytes(), given(0)), Ok(()));
    let labels: String = (0..30_000).map(|n| format!("LABEL l{n}=some-text-$VERSION\n")).collect();
    assert_eq!(judge(labels.as_bytes(), given(0)), Ok(()));
    assert_eq!(judge(&[0xff; 100], given(0)), Ok(()));
}

/// Each of these is read otherwise by a simpler parser.
#[test]
fn nothing_hides_an_instruction() {
    let refused = |text: &str, why: &str| {
        let refused = Judge::builtin().read("", text.as_bytes().to_vec()).unwrap_err();
        assert!(refused.contains(why), "{text}: {refused}");
    };
    let doubling =
        |top: &str, line: &str| format!("{top}FROM scratch\nENV a=aaaaaaaaaaaaaaaa\n{}", line.repeat(25));
    for line in [
        "LABEL x=\\\\\nENV a=$a$a\n",
        "ENV a=$a\\\n\n$a\n",
        "ENV a=$a\\\n\u{a0}\n$a\n",
        "LABEL x=\\\u{a0}\nENV a=$a$a\n",
        "LABEL x=\\\u{b}\nENV a=$a$a\n",
        "RUN <<'E\\'\nE\\\nENV a=$a$a\n",
        "RUN <<E\nRUN \\\nE\nENV a=$a$a\n",
        "RUN [\"a\"] <<E\nENV a=$a$a\nLABEL E=\n",
        "ENV -- a=$a$a\n",
        "ENV\\\n a=$a$a\n",
        "ENV \"a\"=$a$a\n",
        "ENV 'a'=$a$a\n",
        "ENV \\a=$a$a\n",
        "ENV \u{feff}a=$a$a\n",
        "ENV n=a\nENV $n=$a$a\n",
        "ENV n=a\nENV ${n}=$a$a\n",
        "ENV n a\nENV $n $a$a\n",
        "ENV @=$a$a\nENV a=$@\n",
        "ENV \u{e9}=$a$a\nENV a=$\u{e9}\n",
        "ENV \"\"=$a$a\nENV a=${}\n",
        "ENV a=$a$a\nENV a=x\n",
    ] {
        refused(&doubling("", line), "the value of a variable");
    }
    refused(&doubling("# x=y\n# escape=`\n", "LABEL x=`\nENV a=$a$a\n"), "the value of a variable");
    refused(&doubling("# check=x\n# escape=`\n", "LABEL x=\\\nENV a=$a$a\n"), "the value of a variable");
    // The escape of a trigger is not the Dockerfile's.
    refused(&doubling("# escape=`\n", "ONBUILD ENV b=\\\" a=$a$a\n"), "the value of a variable");
    let closed = "ENV b=aaaaaaaaaaaaaaaa\n".to_owned() + &"ENV b=${b//a/'}'$b$b$b$b$b$b$b$b}\n".repeat(6);
    refused(&closed, "the value of a variable");
    let stages = format!("FROM scratch AS b\nENV a={}\nFROM scratch\nENV a=x\nFROM b\n", "a".repeat(500_000));
    refused(&format!("{stages}LABEL {}", "x=$a ".repeat(200)), "line 6: with its variables replaced");
}

/// BuildKit copies the one or the other for each of many short lines.
#[test]
fn what_is_copied_for_each_line_counts() {
    let long = "a".repeat(200_000);
    for (begin, line) in [
        (format!("ENV a={long}"), "RUN x"),
        (format!("ARG a={long}"), "RUN x"),
        (format!("USER {long}"), "RUN x"),
        (format!("SHELL [\"{long}\"]"), "RUN x"),
        (format!("WORKDIR /{long}"), "COPY a ."),
        (format!("LABEL a={long}"), "FROM first"),
        (format!("ONBUILD RUN {long}"), "FROM first"),
        (format!("LABEL a={long}"), "FROM $x"),
        (format!("ARG {}", "a ".repeat(100_000)), "FROM x"),
        (String::new(), "WORKDIR a"),
        (String::new(), "EXPOSE 1-65535"),
    ] {
        let text = format!("FROM scratch AS First\n{begin}\n{}", format!("{line}\n").repeat(12_000));
        refused(&text, "with its variables replaced");
    }
    refused(&format!("COPY {} {long}", "a ".repeat(1000)), "with its variables replaced");
    refused(&format!("COPY [{}\"{long}\"]", "\"a\",".repeat(1000)), "with its variables replaced");
}

pub(super) fn base(triggers: &[&str], environment: &[(&str, u64)]) -> Arc<Inherited> {
    Arc::new(Inherited {
        triggers: triggers.iter().map(|trigger| (*trigger).to_owned()).collect(),
        environment: environment.iter().map(|(name, length)| ((*name).to_owned(), bytes(*length))).collect(),
        settings: 10,
        history: 0,
    })
}

#[test]
fn the_variables_of_a_base_count() {
    let text = format!("FROM x\nLABEL {}", "x=$LONG ".repeat(1000)).into_bytes();
    for text_first in [true, false] {
        let judge = Judge::new(ReadingRules::default());
        if text_first {
            judge.read("", text.clone()).unwrap();
        }
        judge.judge_all().unwrap();
        judge.admit(&base(&[], &[("PATH", 100), ("LONG", 100_000)])).unwrap();
        let refused = if text_first { judge.judge_all() } else { judge.read("", text.clone()) };
        assert!(refused.unwrap_err().contains("line 2: with its variables replaced"));
        judge.begin();
        judge.read("", b"FROM x".to_vec()).unwrap();
        judge.judge_all().unwrap();
    }
    let judge = Judge::new(ReadingRules::default());
    judge.admit(&base(&["ENV a=$LONG$LONG"], &[("LONG", 100_000)])).unwrap();
    assert!(judge.read("", format!("FROM x\nLABEL {}", "x=$a ".repeat(500)).into_bytes()).is_err());
}

#[test]
fn triggers_are_judged_one_by_one() {
    let admit = |triggers: &[&str]| Judge::builtin().admit(&base(triggers, &[("PATH", 100)]));
    // Joined into one text, the first line would be part of the trigger before it.
    let mut doubling = vec!["ENV a=aaaaaaaaaaaaaaaa"];
    doubling.extend(["LABEL x=\\", "ENV a=$a$a"].repeat(25));
    assert!(admit(&doubling).unwrap_err().contains("the value of a variable"));
    assert!(admit(&["# escape=`\nENV x=`\n#\n y", "RUN x"]).unwrap_err().contains("comment"));
    for comment in ["# check=x\nRUN x", " \n\t# check=x\nRUN x", "\u{feff}# x\nRUN x", "\u{a0}#x\nRUN x"] {
        assert!(admit(&["RUN x", comment]).unwrap_err().ends_with("begin with a comment"), "{comment}");
    }
    assert!(admit(&["COPY ${PATH#} /"]).unwrap_err().contains("may be empty"));
    assert_eq!(
        admit(&["RUN x\n# a word", "RUN <<E\n# a word\nE", "COPY a \\\n# a word\nb", "ENV PATH=/x:$PATH"]),
        Ok(())
    );
}

#[test]
fn a_pattern_that_may_be_empty_is_refused_for_old_engines_alone() {
    for text in ["COPY ${PATH#} /", "ENV e=\nRUN echo ${PATH#$e}", "COPY <<E /\n${x%}\nE\n", "ARG ${x#''}"] {
        let text = format!("FROM x\n{text}");
        assert!(
            Judge::builtin().read("", text.clone().into_bytes()).unwrap_err().contains("may be empty"),
            "{text}"
        );
        assert_eq!(judge(text.as_bytes(), given(0)), Ok(()), "{text}");
    }
    for text in ["RUN echo ${x#$y} ${x%%.*}", "RUN <<E\n${x#}\nE", "CMD ${x#}", "ENV a=${x#v}", "# ${x#}"] {
        assert_eq!(Judge::builtin().read("", format!("FROM x\n{text}").into_bytes()), Ok(()), "{text}");
    }
}

#[test]
fn a_text_has_at_most_four_megabytes() {
    let text = format!("{}\n", "#".repeat(1023)).repeat(4 << 10);
    assert_eq!(judge(text.as_bytes(), given(0)), Ok(()));
    let refused = judge(format!("{text}#").as_bytes(), given(0)).unwrap_err();
    assert!(refused.contains("more than 4 MiB"), "{refused}");
}

#[test]
fn what_takes_the_frontend_minutes_is_refused() {
    let many = "CMD a\n".repeat(INSTRUCTIONS_MAX + 1);
    assert!(judge(many.as_bytes(), builtin((0, 33))).unwrap_err().contains("more than 200000 instructions"));
    assert_eq!(judge(many.as_bytes(), ReadingRules::default()), Ok(()));
    let variables = |count: usize| (0..count).map(|n| format!("ENV a{n}=b\n")).collect::<String>();
    assert_eq!(judge(variables(7_000).as_bytes(), given(0)), Ok(()));
    refused(&variables(8_000), "the Dockerfile has too many variables");
    let pairs: String = (0..11_000).map(|n| format!(" a{n}=b")).collect();
    refused(&format!("ENV{pairs}\n"), "line 1: the Dockerfile has too many variables");
    // Each line looks at all variables.
    refused(&format!("{}{}", variables(5_000), "LABEL a=b\n".repeat(10_000)), "too many variables");
    // An ordinary one of 4 MiB: 440 stages of 150 labels each.
    let labels = |stage: usize| -> String {
        (0..150)
            .map(|n| format!("LABEL g.{stage}.{n}=\"some text, as long as lines are usually\"\n"))
            .collect()
    };
    let stages: String = (0..440).map(|n| format!("FROM a AS s{n}\nARG v{n}\n{}", labels(n))).collect();
    assert!(stages.len() > 3 << 20, "{}", stages.len());
    assert_eq!(judge(stages.as_bytes(), given(0)), Ok(()));
}

/// Their number costs BuildKit nothing by itself.
#[test]
fn short_lines_are_let_through() {
    let lines = |line: &str| line.repeat(150_000);
    for text in [
        format!("FROM x\nCOPY <<E /x\n{}E\n", lines("aa\n")),
        format!("FROM x\nRUN a \\\n{}\n", lines("a \\\n")),
        format!("FROM x\n{}", lines("#a\n")),
        format!("FROM x\n{}", lines("\n")),
    ] {
        for rules in [builtin((0, 33)), ReadingRules::default()] {
            assert_eq!(judge(text.as_bytes(), rules), Ok(()), "{}", &text[..30]);
        }
    }
}

#[test]
fn what_takes_old_engines_minutes_to_join_is_refused() {
    let texts = |lines: usize| {
        let (joined, document) = ("  a-name-as-they-usually-are \\\n", "a line as they usually are\n");
        [
            format!("FROM scratch\nCOPY {} /x\n", joined.repeat(lines)),
            format!("FROM scratch\nCOPY <<E /x\n{}E\n", document.repeat(lines)),
        ]
    };
    for (text, last) in texts(70_000).into_iter().zip([14, 25]) {
        for version in [13, last] {
            let refused = judge(text.as_bytes(), builtin((0, version))).unwrap_err();
            assert!(refused.starts_with("line 2: the instruction has too many lines"), "{refused}");
        }
        for rules in [builtin((0, last + 1)), ReadingRules::default()] {
            assert_eq!(judge(text.as_bytes(), rules), Ok(()));
        }
    }
    for text in texts(18_000) {
        assert_eq!(judge(text.as_bytes(), builtin((0, 13))), Ok(()));
        // Several cost as much as a long one.
        let refused = judge(text.repeat(5).as_bytes(), builtin((0, 13))).unwrap_err();
        assert!(refused.contains("too many lines"), "{refused}");
    }
    let trigger = format!("RUN {}true", "a\\\n".repeat(300_000));
    let refused = Judge::builtin().admit(&base(&[&trigger], &[])).unwrap_err();
    assert_eq!(refused, "its ONBUILD triggers have more than 64 KiB");
}

#[test]
fn triggers_are_short() {
    let image = |length: usize| {
        let triggers = vec![format!("RUN {}", "x".repeat(length)), "RUN y".to_owned()];
        Judge::builtin().admit(&Arc::new(Inherited { triggers, ..Inherited::default() }))
    };
    assert_eq!(image(TRIGGERS_BYTES_MAX / 2), Ok(()));
    assert_eq!(image(TRIGGERS_BYTES_MAX).unwrap_err(), "its ONBUILD triggers have more than 64 KiB");
}

#[test]
fn dockerfiles_that_people_write_are_let_through() {
    for (shape, text) in shapes::IMAGES.iter().chain(shapes::LINES).chain(shapes::NEWER) {
        for frontend in [Frontend::Builtin(None), Frontend::Contained] {
            let rules = ReadingRules { frontend, has_checks: true, ..given(1000) };
            let judge = Judge::new(rules);
            judge.admit(&base(&["COPY . /app"], &[("PATH", 200), ("HOME", 5)])).unwrap();
            assert_eq!(judge.read("Dockerfile", text.as_bytes().to_vec()), Ok(()), "{shape}");
            assert_eq!(judge.judge_all(), Ok(()), "{shape}");
        }
    }
}

/// The time of the engine's own frontend grows with the square of these.
#[test]
fn the_engine_itself_reads_no_endless_chains() {
    let builtin = || ReadingRules { frontend: Frontend::Builtin(None), ..ReadingRules::default() };
    for line in ["RUN x\n", "COPY a /\n", "ADD a /\n", "WORKDIR a\n", "FROM a AS a\n"] {
        let chain = |count: usize| format!("FROM x AS a\n{}", line.repeat(count));
        assert_eq!(judge(chain(500).as_bytes(), builtin()), Ok(()), "{line}");
        let why = judge(chain(700).as_bytes(), builtin()).unwrap_err();
        assert!(why.contains("steps follow one another"), "{why}");
        assert_eq!(judge(chain(700).as_bytes(), ReadingRules::default()), Ok(()), "{line}");
    }
    let stages = |count: usize| "FROM x\nRUN x\n".repeat(count);
    assert_eq!(judge(stages(2500).as_bytes(), builtin()), Ok(()));
    assert!(judge(stages(3500).as_bytes(), builtin()).unwrap_err().contains("more than 6000 steps"));
    let why = judge(b"FROM x\nRUN \0\n", builtin()).unwrap_err();
    assert!(why.contains("NUL"), "{why}");
}

/// A sync of every pass brings the text again, and the largest texts take seconds.
#[test]
fn a_text_is_judged_once_for_the_same_images() {
    let judge = Judge::builtin();
    let text = b"FROM base\nRUN true\n";
    let judged = || judge.known().judged.len();
    judge.read("1", text.to_vec()).unwrap();
    judge.begin();
    judge.read("2", text.to_vec()).unwrap();
    judge.judge_all().unwrap();
    assert_eq!(judged(), 1);
    judge.admit(&base(&[], &[])).unwrap();
    assert_eq!(judged(), 0, "another image may change the judgement");
    judge.judge_all().unwrap();
    assert_eq!(judged(), 1);
    assert!(judge.read("3", b"ARG a\n".to_vec()).is_err());
    assert_eq!(judged(), 1, "a refused text is judged again");
    assert!(judge.judge_all().is_err() && judge.has(ALL));
    judge.known().judged.insert(Digest::from_sha256(Sha256::digest(b"ARG a\n").into()));
    judge.read("3", b"ARG a\n".to_vec()).expect("what has passed is not read again");
}
