package main

import (
	"math/rand"
	"strings"
)

// Each of them hides or shows an instruction by one rule of the parser.
var byHand = []string{
	"", "\n", "FROM scratch", "FROM a\r\nENV a b $c\r\n", "FROM x\nENV a=b\\\n", "FROM x\nENV a=b\\",
	// A doubled escape does not join.
	"FROM x\nLABEL a=\\\\\nENV a=$a$a\n", "FROM x\nLABEL a=\\\\\\\nENV a=$a$a\n", "ENV a=b\\ \t\nc\n", "ENV a=b\\\v\nc\n",
	"ENV a=b\\\r\nc\r\n", "ENV a=b\\\r\r\nc", "\\\nENV a=b\n", "\\\n\\\n\nENV a=b\n", " \\\n ENV a=b\n", "\\", "\\\\\nENV a=b",
	// Nothing within an instruction.
	"RUN a \\\n\nENV a=b\n", "RUN a \\\n \t\r\n\u00a0\nENV a=b\n", "RUN a \\\n# word\nENV a=b\n", "RUN a \\\n\u00a0# word\\\nENV a=b\n",
	"RUN a \\\n\v#x\n\f#y\nENV a=b\n", "RUN a \\\n  \\\n  b\nENV a=b",
	// White space of all kinds.
	"\u00a0ENV a=b\n", "ENV\u00a0a=b\n", "ENV\va=b\n", "ENV\fa=b\n", "ENV\ra=b\n", "ENV\u0085a=b\n", "ENV a=b\u00a0c=d\n", "ENV a\u00a0b=c d\n",
	"ENV a\u00a0b\n", "ENV\t a \t b\n", "ARG a\u2003b\vc\n", "\ufeffENV a=b\n", "\ufeff\ufeffENV a=b\n", "ENV a=b\n\ufeffENV a=b\n",
	"ENV a=b\rENV c=d\r", "\rENV a=b", "ENV a=b \u2028", "\xa0ENV a=b", "ENV a=\xff\xc2 b=\xe2\x80\n", "ENV a=b\xc2\xa0\n", "RUN \xc2\xa0\\\nx\n",
	// Keywords.
	"eNv a=b\n", "HEALTHCHEC\u212a NONE\n", "WOR\u212aDIR /a\n", "ONBU\u0130LD RUN a\n", "ON\u212aBUILD a\n", "\u0130NV a\n",
	"ONBUILD\nENV a=b", "ONBUILD ENV a=b\n", "ONBUILD ONBUILD RUN <<E\nENV a=b\nE\n", "ONBUILD RUN <<E\nENV a=b\nE\nENV c=d\n",
	"ONBUILD RUN [\"a\"] <<E\nENV a=b\nE\n", "ONBUILD --x RUN <<E\nENV a=b\nE\n", "ONBUILD \\\nCOPY <<E /\nENV a=b\nE\n",
	"ONBU\u0130LD RUN <<E\nENV a=b\nE\n",
	// Directives.
	"# escape=`\nENV a=b`\nc\n", "#escape=`\nENV a=b\\\nc=d\n", "# escape = ` \nENV a=b`\nc\n", "#\tescape\f=\r`\nENV a=b`\nc\n",
	"#\vescape=`\nENV a=b`\nc\n", "#\u00a0escape=`\nENV a=b`\nc\n", "#escape\v=`\nENV a=b`\nc\n", "#escape=\v`\nENV a=b`\nc\n",
	"# ESCAPE=`\nENV a=b`\nc\n", "# word\n# escape=`\nENV a=b`\nc\n", "# other=x\n# escape=`\nENV a=b`\nc\n", "\n# escape=`\nENV a=b`\nc\n",
	"# check=x\n# escape=`\nENV a=b`\nc\n", "# syntax=x\n# escape=`\nENV a=b`\nc\n", "# syntax=\n# escape=`\nENV a=b`\nc\n",
	"# syntax= \n# escape=`\nENV a=b`\nc\n", "# syntax\n# escape=`\nENV a=b`\nc\n", "# 1a=x\n# escape=`\nENV a=b`\nc\n",
	"#\n# escape=`\nENV a=b`\nc\n", "\ufeff# escape=`\nENV a=b`\nc\n", " \u00a0# escape=`\nENV a=b`\nc\n", "# escape=\\\nENV a=b\\\nc\n",
	"# escape=`\n# escape=`\nENV a=b`\nc\n", "# escape=x\nENV a=b\n", "# escape=``\nENV a=b\n", "#!/bin/x\n# escape=`\nENV a=b`\nc",
	"# escape=`\nENV a=b``\nc=d\n", "# escape=`\n`\nENV a=b\n", "# escape=`\nRUN --x=`\" <<E\nENV a=b\nE\n\"",
	// Flags.
	"ENV -- a=b\n", "ENV --\n", "ENV --a=b c=d\n", "ENV --\"a b\"=c d=e\n", "ENV --a\\ b c=d\n", "ENV --a` b c=d\n", "# escape=`\nENV --a` b c=d\n",
	"# escape=`\nENV --a\\ b c=d\n", "ENV --a=\xc3\xa0 c=d e=f\n", "ENV -a=b\n", "ENV - -a=b\n", "ENV --\"\" a=b", "ENV --'x", "ARG --x -- --y\n", "ENV \xc3\xa0=b\n",
	"RUN --x [\"a\"]\\\n <<E\nENV a=b\nE\n",
	// Here-documents.
	"RUN <<E\nENV a=b\nE\nENV c=d\n", "RUN <<E\nENV a=b\nE\\\nE\nENV c=d\n", "RUN <<E\nE \nE\nENV c=d\n", "RUN <<E\n\tE\nE\nENV c=d\n",
	"RUN <<-E\n\t\tE\nENV c=d\n", "RUN <<-E\n \tE\nE\nENV c=d\n", "RUN <<E\r\nENV a=b\r\nE\r\nENV c=d\n", "RUN <<E\nE\r\r\nENV c=d\n",
	"RUN <<E <<F\nENV a=b\nE\nENV a=b\nF\nENV c=d\n", "RUN << E\nENV a=b\nE\n", "RUN <<\tE\nENV a=b\nE\n", "RUN <<\vE\nENV a=b\nE\n",
	"RUN <<-  E\nENV a=b\nE\n", "RUN << -E\nENV a=b\n-E\n", "RUN <<'E'\nENV a=b\nE\n", "RUN <<\"E\"\nENV a=b\nE\n", "RUN <<'E F'\nENV a=b\nE F\n",
	"RUN <<E\\ F\nENV a=b\nE F\n", "RUN <<\\E\nENV a=b\nE\n", "RUN <<'E\nENV a=b\nE\n", "RUN '<<E'\nENV a=b\nE\n", "RUN a<<E\nENV a=b\nE\n",
	"RUN 3<<E\nENV a=b\nE\n", "RUN 3x<<E\nENV a=b\nE\n", "RUN <<<E\nENV a=b\nE\n", "RUN <<E<F\nENV a=b\nE\n", "RUN \\<<E\nENV a=b\nE\n",
	"RUN <\\\n<E\nENV a=b\nE\n", "RUN a \\\n <<E\nENV a=b\nE\n", "RUN <<E \\\n b\nENV a=b\nE\n", "RUN <<E # x\nENV a=b\nE\n",
	"RUN <<$E\nENV a=b\n$E\n", "RUN <<${E}\nENV a=b\n${E}\n", "RUN <<${E:-F}\nENV a=b\n${E:-F}\n", "RUN <<${E:-F G}\nENV a=b\nE\n", "RUN <<${E#F}\nENV a=b\n${E#F}\n",
	"RUN <<${E:#F}\nENV a=b\n${E:#F}\n", "RUN <<${E/F/G}\nENV a=b\n${E/F/G}\n", "RUN ${a:-x} <<E\nENV a=b\nE\n", "RUN x${a:-y}<<E\nENV a=b\nE\n",
	"RUN <<E${a:-y}\nENV a=b\nE${a:-y}\n", "RUN ${ <<E\nENV a=b\nE\n", "RUN $ <<E\nENV a=b\nE\n", "RUN \"${a:-<<E}\" <<E\nENV a=b\nE\n",
	"RUN ${a:-\"} <<E\nENV a=b\nE\n", "RUN ${a^^} <<E\nENV a=b\nE\n", "RUN ${@} ${-} $? $$ <<E\nENV a=b\nE\n", "RUN ${1a} <<E\nENV a=b\nE\n",
	"RUN <<\"E\\F\"\nENV a=b\nE\\F\n", "RUN <<\"E\\F\"\nENV a=b\nE\\\\F\n", "RUN <<\"E\\\"F\"\nENV a=b\nE\"F\n", "RUN <<'E\\F'\nENV a=b\nE\\F\n", "RUN <<${a#\"\\x\"}E\nENV a=b\nE\n",
	"RUN <<E\\\nF\nENV a=b\nEF\n", "RUN <<\xff\nENV a=b\n\xff\n", "RUN <<\xff\nENV a=b\n\ufffd\n", "RUN <<\ufeffE\nENV a=b\nE\n", "RUN <<E\u00a0F\nENV a=b\nE\n",
	"RUN \u00a0<<E\nENV a=b\nE\n", "RUN [\"a\"] <<E\nENV a=b\nE\n", "RUN [\"a\"\nENV a=b\n", "COPY [\"a\", \"b\"] <<E\nENV a=b\nE\n", "COPY [ ] <<E\nENV a=b\nE\n",
	"COPY [\"<<E\"]\nENV a=b\nE\n", "COPY [\"<<E\" ]x\nENV a=b\nE\n", "COPY [\"\\x\"] <<E\nENV a=b\nE\n", "COPY [\"\\u00e9\"] <<E\nENV a=b\nE\n", "COPY [\"a\",] <<E\nENV a=b\nE\n",
	"COPY <<E /\nENV a=$b\nE\n", "COPY <<'E' /\nENV a=$b\nE\n", "ADD --chown=a <<E /x\nENV a=b\nE\n", "ENV a=<<E\nENV a=b\nE\n", "RUN <<E\nENV a=b\n", "LABEL a=<<E\nENV a=b\n",
	"RUN <<-'E'\n\tE\nENV a=b\n", "RUN <<\"\"\n\nENV a=b\n", "RUN <<''E\nENV a=b\nE\n", "RUN <<E\n# escape=`\nE\nENV a=b\\\nc\n",
	// Values.
	"ENV \"a\"=b\n", "ENV a=\"b c\" d=e\n", "ENV a='b \\' c=d\n", "ENV a=\"b \\\" c\" d=e\n", "ENV a=b\\ c d=e\n", "ENV a='b\" c' d=\"e' f\"\n", "ENV a=\\\n", "ENV a=b\\\n \\\n",
	"ENV a\n", "ENV\n", "ENV =\n", "ENV =a\n", "ENV a=\n", "ENV a= b\n", "ENV a =b\n", "ENV a=b c\n", "ENV $a=b\n", "ENV a$b c\n", "ENV a==b\n", "ARG\n", "ARG a=b c \"d e\"\n",
	"# escape=`\nENV a=\"b`\" c\" d=e\\ f=g\n", "LABEL a b=c\n", "LABEL \"a=b\"=c d=e\n", "ENV a=\xff\n", "ENV a\\=b c\n", "ARG a\\\nFROM b\n", "ARG\\\n a\nFROM b\n",
}

var pieces = []string{
	"RUN ", "COPY ", "ADD ", "ENV ", "ENV a=", "ARG ", "LABEL ", "FROM a", "ONBUILD ", "onbuild", "run", "ENV", "RUN", "env ", "HEALTHCHECK ",
	"\n", "\n", "\n", "\n", "\r\n", "\r", " ", " ", "  ", "\t", "\v", "\f", "\u00a0", "\u0085", "\u2028", "\ufeff", "\xff", "\xc2", "\xa0", "\x00",
	"\\\n", "\\\n", "`\n", "\\", "\\\\", "`", "\\ \n", "\\\r\n", "#", "# x", "# escape=`\n", "#escape=\\\n", "# check=x\n", "# syntax=x\n", "# x=y\n",
	"escape", "=", "=", "`", "check", "<<", "<<", "<<E", "<<E", "<<-E", "<< E", "<<'E'", "<<\"E\"", "<<E\n", "<<E\nx\nE\n", "<<$E", "<<${E:-x}", "<<\\E", "3<<E", "<", "-", "--", "--x=y ", "-- ",
	"E", "E\n", "\nE\n", "\tE\n", "E\\\n", "E\r\n", "[\"a\"]", "[\"a\", \"b\"] ", "[", "]", ",", "\"", "\"", "'", "'", "[\"\\u0041\"]", "[]",
	"$", "$a", "${a}", "${a:-", "${a#", "${a:#", "${a/", "/", "}", "}", "${", "$$", "${@}", "{", "%", "?", "+", "a", "a", "b", "0", "1", "_", "\u00e9", "\u212a", "\u0130", "@", "*", "!",
}

func byChance(random *rand.Rand) string {
	var text strings.Builder
	for range 1 + random.Intn(25) {
		text.WriteString(pieces[random.Intn(len(pieces))])
	}
	return text.String()
}
