use super::*;

fn given(longest_argument: u64) -> Rules {
    Rules { longest_argument, ..Rules::default() }
}

#[test]
fn arguments_alone_are_nothing_for_the_engines_own_frontend() {
    let builtin = Rules { is_builtin: true, ..Rules::default() };
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
        assert!(judge(text.as_bytes(), &builtin).unwrap_err().contains("no `FROM`"), "{text}");
        assert_eq!(judge(text.as_bytes(), &given(0)), Ok(()), "{text}");
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
        assert_eq!(judge(text.as_bytes(), &builtin), Ok(()), "{text}");
    }
}

#[track_caller]
fn refused(text: &str, why: &str) {
    let refused = judge(text.as_bytes(), &given(0)).unwrap_err();
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
    refused(&format!("ENV a={}\n# {}", "a".repeat(100_000), "$a".repeat(1000)), "line 2: with its");
    refused(&format!("LABEL a={}", "$x".repeat(300_000)), "with its variables replaced");
}

#[test]
fn a_long_build_argument_counts() {
    let text = format!("FROM scratch\nARG a\nLABEL {}", "x=$a ".repeat(1000));
    assert_eq!(judge(text.as_bytes(), &given(0)), Ok(()));
    assert!(judge(text.as_bytes(), &given(100_000)).unwrap_err().contains("line 3: with its variables"));
    assert_eq!(judge(b"ARG a\nENV b=x\n", &given(3 << 20)), Ok(()));
}

#[test]
fn what_nests_is_refused() {
    let nested = |depth: usize| format!("ENV a={}x{}", "${a:-".repeat(depth), "}".repeat(depth));
    refused(&nested(257), "line 1: more than 256");
    refused(&format!("FROM x\nRUN {}", "${".repeat(300)), "line 2: more than 256");
    assert_eq!(judge(nested(20).as_bytes(), &given(0)), Ok(()));
}

#[test]
fn real_ones_are_let_through() {
    let path = "ENV PATH=/opt/x/bin:$PATH HOME=\"/a b\" X='${PATH}'\n".repeat(100);
    let steps = "RUN a=${b} && echo \"$a$a\" \\\n # why\n && true\n".repeat(20_000);
    let platform = "ARG P\nENV Q=${P//\\//-}${P:-x}\n".repeat(100);
    for text in
        ["", "FROM scratch", "FROM a\r\nENV a b $c\r\n", "ENV", "ENV =", "ARG", &path, &steps, &platform]
    {
        assert_eq!(judge(text.as_bytes(), &given(1000)), Ok(()), "{}", text.get(..20).unwrap_or(text));
    }
    let labels: String = (0..30_000).map(|n| format!("LABEL l{n}=some-text-$VERSION\n")).collect();
    assert_eq!(judge(labels.as_bytes(), &given(0)), Ok(()));
    assert_eq!(judge(&[0xff; 100], &given(0)), Ok(()));
}

#[test]
fn a_large_one_is_read_only_without_checks() {
    let checked = Rules { has_checks: true, ..Rules::default() };
    let text = |mib: usize| format!("{}\n", "#".repeat(1023)).repeat(mib << 10);
    assert_eq!(judge(text(1).as_bytes(), &checked), Ok(()));
    let refused = judge(format!("{}#", text(1)).as_bytes(), &checked).unwrap_err();
    assert!(
        refused.contains("more than 1 MiB") && refused.contains("BUILDKIT_DOCKERFILE_CHECK=skip=all"),
        "{refused}"
    );
    assert_eq!(judge(text(4).as_bytes(), &given(0)), Ok(()));
    let refused = judge(format!("{}#", text(4)).as_bytes(), &given(0)).unwrap_err();
    assert!(refused.contains("more than 4 MiB"), "{refused}");
}

#[test]
fn what_takes_the_frontend_minutes_is_refused() {
    refused(&"RUN x\n".repeat(LINES_MAX + 1), "more than 100000 lines");
    let variables = |count: usize| (0..count).map(|n| format!("ENV a{n}=b\n")).collect::<String>();
    assert_eq!(judge(variables(7_000).as_bytes(), &given(0)), Ok(()));
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
    assert_eq!(judge(stages.as_bytes(), &given(0)), Ok(()));
}
