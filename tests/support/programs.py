"""Random programs that contain a prefix in the forms that compilers and linkers give to strings.

Each program prints all that depends on the prefix. It is deterministic: a seed stands for one program. Programs that
contain only a number computed from the prefix, such as a hash, are left out: nothing can find it in them.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PRELUDE = """\
typedef __SIZE_TYPE__ size_t; typedef __WCHAR_TYPE__ wchar_t;
int printf(const char *, ...); int puts(const char *); int putchar(int);
size_t strlen(const char *); int strcmp(const char *, const char *); void *memcpy(void *, const void *, size_t);
void *memchr(const void *, int, size_t); int memcmp(const void *, const void *, size_t);
char *strcpy(char *, const char *); char *strdup(const char *); int strncmp(const char *, const char *, size_t);
static volatile int zero;
"""

#: C: statements of `main`, and what stands before it. P is the prefix as a literal, T what follows it in a path.
_C_FORMS: dict[str, tuple[str, str]] = {
    "direct": ("", "puts(P T);"),
    "prefix alone": ("", "puts(P);"),
    "after other text": ("", "puts(LEAD P T);"),
    "twice": ("", 'puts(P T ":" P "/lib");'),
    "sizeof": ("", 'printf("%zu ", sizeof P T); puts(P T);'),
    "strlen": ("static const char *p = P T;", 'printf("%zu %s\\n", strlen(P T), p + zero);'),
    "copied by length": ("", "char b[4096]; memcpy(b, P T, sizeof P T); puts(b + zero);"),
    "end by length": ("", "const char *p = P T; puts(p + (sizeof P T - 1) - 3); puts(p);"),
    "array": ("", "char b[] = P T; b[zero] = '/'; puts(b);"),
    "array after text": ("", "char b[] = LEAD P T; b[zero] = LEAD[0]; puts(b);"),
    "large array": ("static char b[8192] = P T;", "puts(b + zero);"),
    "array with its length": (
        "static struct { char b[512]; int n; } s = {P T, sizeof P T - 1};",
        'printf("%.*s|\\n", s.n + zero, s.b);',
    ),
    "unterminated arrays": (
        'static struct { char a[sizeof P T - 1], b[5]; } s = {P T, "hello"};',
        'printf("%.*s %.5s\\n", (int)sizeof s.a, s.a + zero, s.b);',
    ),
    "counted": (
        'static const unsigned char s[] = {sizeof P T - 1}; static const char t[] = P T "next";',
        'printf("%.*s|%s\\n", s[zero], t, t + s[zero]);',
    ),
    "list": (
        'static const char l[] = P "/a\\0" P "/b\\0c\\0";',
        "for (const char *p = l + zero; *p; p += strlen(p) + 1) puts(p);",
    ),
    "offsets": (
        'static const char t[] = "a\\0" P T "\\0end"; static const int o[] = {0, 2, 2 + sizeof P T};',
        "for (int i = zero; i < 3; i++) puts(t + o[i]);",
    ),
    "suffix shared": ("const char *volatile q = T;", "puts(P T); puts(q);"),
    "prefix shared": (
        'static const char *volatile a = P T, *volatile b = P T "/deeper";',
        "puts(a); puts(b);",
    ),
    "pointer into": ("static const char *volatile p = &(P T)[sizeof P - 1];", "puts(p); puts(P T);"),
    "compared": ("", 'puts(strcmp(argv[1], P) ? "other" : "same"); puts(memcmp(argv[1], P, 9) ? "o" : "s");'),
    "compared by length": ("", 'puts(strncmp(argv[2], P T, sizeof P T - 1) ? "other" : "same");'),
    "duplicate": ("", "puts(strdup(P T));"),
    "copied": ("", "char b[4096]; strcpy(b, P T); puts(b + zero);"),
    "wide": (
        "",
        "const wchar_t *w = WIDE(P T); while (*w) putchar(*w++ & 127); putchar('\\n');",
    ),
    "utf-16": (
        "static const unsigned short u[] = UTF16(P T);",
        "for (size_t i = zero; i < sizeof u / 2 - 1; i++) putchar(u[i]); putchar('\\n');",
    ),
    "utf-32": (
        "static const unsigned u[] = UTF32(P T);",
        "for (size_t i = zero; i < sizeof u / 4 - 1; i++) putchar(u[i]); putchar('\\n');",
    ),
    "file name": ('#line 7 P "/src/x.c"', "puts(__FILE__);"),
    "function": (
        'static const char *f(int n) { return n ? P T : "none"; }',
        "puts(f(!zero)); puts(f(zero));",
    ),
    "own section": ('__attribute__((section("paths"))) static char s[] = P T;', "puts(s + zero);"),
    "sibling": ("", 'puts(P "-other" T); puts(P "2" T);'),
    "percent": ("", 'printf(P "/%s\\n", "x");'),
    "longer than a register": ("struct s { char c[sizeof P + 20]; };", "struct s s = {P}; puts(s.c + zero);"),
}

_CXX_FORMS: dict[str, tuple[str, str]] = {
    "string": ("", "std::string s = P T; std::cout << s << ' ' << s.size() << std::endl;"),
    "global string": ("static const std::string s = P T;", "puts(s.c_str());"),
    "string after text": ("", "std::string s = LEAD P; s += T; puts(s.c_str());"),
    "string_view": (
        "constexpr std::string_view v = P T;",
        'printf("%.*s|\\n", (int)v.size(), v.data() + zero);',
    ),
    "literal": ("using namespace std::literals;", 'auto s = P T ""s; puts(s.c_str());'),
    "map": (
        "",
        'std::map<std::string, int> m{{P T, 1}, {"/zz", 2}}; for (auto &[k, v] : m) printf("%s=%d\\n", k.c_str(), v);',
    ),
    "vector": ("", 'std::vector<std::string> v{P, P T, "x"}; for (auto &s : v) puts(s.c_str());'),
    "array": ("constexpr auto a = std::to_array(P T);", 'printf("%zu %s\\n", a.size(), a.data() + zero);'),
    "exception": ("", "try { throw std::runtime_error(P T); } catch (std::exception &e) { puts(e.what()); }"),
    "path": ("", 'std::filesystem::path p = P; p /= "x"; puts(p.c_str());'),
    "wide string": ("", "std::wstring s = WIDE(P T); for (auto c : s) putchar(c); putchar('\\n');"),
    "equal": ("", 'std::string a = argv[1]; puts(a == P ? "same" : "other");'),
    "starts with": ("", 'std::string a = argv[2]; puts(a.rfind(P "/", 0) == 0 ? "below" : "other");'),
}

_RUST_FORMS: dict[str, tuple[str, str]] = {
    "str": ("", 'println!("{}", concat!(p!(), t!()));'),
    "constant": ("const C: &str = concat!(p!(), t!());", 'println!("{} {}", C, C.len());'),
    "c string": (
        "use std::ffi::CString;",
        'println!("{:?}", CString::new(concat!(p!(), t!())).unwrap());',
    ),
    "c string from bytes": (
        "use std::ffi::CStr;",
        'println!("{:?}", CStr::from_bytes_with_nul(concat!(p!(), t!(), "\\0").as_bytes()).unwrap());',
    ),
    "table": (
        'static T: [&str; 3] = [p!(), concat!(p!(), t!()), "x"];',
        'for s in T.iter() { println!("{}", s); }',
    ),
    "match": ("", 'println!("{}", match a.as_str() { p!() => "same", _ => "other" });'),
    "string": ("", "let mut s = String::from(concat!(p!(), t!())); s.push('!'); println!(\"{}\", s);"),
    "bytes": (
        "",
        'let b = concat!(p!(), t!()).as_bytes(); println!("{} {}", b.len(), String::from_utf8_lossy(b));',
    ),
    "format": ("", 'println!(concat!(p!(), "/{}"), a.len() * 0);'),
    "neighbours": (
        'static A: &str = concat!(p!(), "/a"); static B: &str = concat!("b", p!());',
        'println!("{}{}", A, B);',
    ),
    "starts with": ("", 'println!("{}", a.starts_with(p!()));'),
}

_GO_FORMS: dict[str, tuple[str, str]] = {
    "constant": ("const c = P + T", "fmt.Println(c, len(c))"),
    "variable": ("var v = P + T", "fmt.Println(v, len(v))"),
    "prefix only": ("", "fmt.Println(P)"),
    "table": ('var t = []string{P, P + T, "x"}', "for _, s := range t { fmt.Println(s) }"),
    "map": ('var m = map[string]int{P + T: 1, "/zz": 2}', "fmt.Println(m)"),
    "bytes": ("", "b := []byte(P + T); fmt.Println(len(b), string(b))"),
    "array": ("", "var a [4096]byte; fmt.Println(copy(a[:], P+T), string(a[:len(P)]))"),
    "switch": ("", 'switch os.Args[1] { case P: fmt.Println("same"); default: fmt.Println("other") }'),
    "starts with": ("", 'fmt.Println(strings.HasPrefix(os.Args[2], P+"/"))'),
    "format": ("", 'fmt.Printf(P+"/%d\\n", len(os.Args))'),
    "joined": ("", 'fmt.Println(strings.Join([]string{P, T}, ":"))'),
    "slice of a string": ("var s = P + T", "fmt.Println(s[len(P)/2:])"),
}

_JAVA_FORMS = (
    "System.out.println(P + T);",
    "System.out.println((P + T).length() + P);",
    'System.out.println("x" + args.length + P + T);',
    'switch (args[0]) { case P: System.out.println("same"); break; default: System.out.println("other"); }',
    "byte[] b = (P + T).getBytes(); System.out.println(b.length + new String(b));",
    "System.out.println(java.util.List.of(P, T, P + T));",
)

_LEADS = ["A", "PATH=", "-I", "-L", "file://", "x=1:", "prefix is ", "12345678"]
_TAILS = ["/x", "/lib", "/bin/python3.11", "/share/some/longer/directory/data.csv", "/é", "/a b"]
_LEVELS = ["-O0", "-O1", "-O2", "-O3", "-Os"]
_OPTIONS = [
    *("-g", "-fPIC", "-static", "-s", "-fno-builtin", "-fno-merge-constants", "-flto", "-mavx2"),
    *("-Wl,-O2", "-Wl,--hash-style=sysv", "-rdynamic", "-fstack-protector-all", "-fsanitize=undefined"),
]


#: What the loader reads: how the program is linked. The library `message` is in the prefix's `lib`.
_LINK_FORMS: dict[str, str] = {
    "runpath": "-L{prefix}/lib -lmessage -Wl,-rpath,{prefix}/lib",
    "rpath": "-L{prefix}/lib -lmessage -Wl,-rpath,{prefix}/lib -Wl,--disable-new-dtags",
    "several": "-L{prefix}/lib -lmessage -Wl,-rpath,{prefix}/none:{prefix}/lib:/usr/none:{prefix}-other/lib",
    "needed by path": "{prefix}/lib/libunnamed.so",
    "interpreter": "-L{prefix}/lib -lmessage -Wl,-rpath,{prefix}/lib -Wl,--dynamic-linker={prefix}/lib/ld.so",
    "prefix alone": "-L{prefix}/lib -lmessage -Wl,-rpath,{prefix}/lib:{prefix}",
}

#: Names of symbols that the end of a path in the string table of symbols can be shared with.
_SYMBOLS = ("lib", "ib", "b", "none", "message_of_none")

#: Where Go keeps its compiled standard library, since tests have other home directories.
_GO_CACHE = Path(__file__).parents[2] / ".cache/go"

LANGUAGES = ("c", "link", "c++", "rust", "go", "java")


@dataclass(frozen=True)
class Program:
    """A program, and how to build it.

    `build` builds it for a prefix as a file below a directory. `arguments` are what to run that with.
    """

    name: str
    form: str
    build: Callable[[str, Path], None]
    command: Callable[[Path], list[str]]


def random_program(seed: int, language: str) -> Program:
    """Return the program of that number."""
    choose = random.Random(f"{language} {seed}")
    make = {"c": _c, "c++": _cxx, "rust": _rust, "go": _go, "java": _java, "link": _link}[language]
    return make(f"{language.replace('+', 'x')}{seed}", choose)


def _find_rustc() -> str | None:
    """Return Rust's compiler itself: what is on PATH may be rustup, which needs the developer's home."""
    try:
        command = ["rustc", "--print", "sysroot"]
        sysroot = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return shutil.which("rustc", path=f"{sysroot}/bin")


_COMPILERS = {
    "c": shutil.which("cc"),
    "link": shutil.which("cc"),
    "c++": shutil.which("c++"),
    "rust": _find_rustc(),
    "go": shutil.which("go"),
    "java": shutil.which("javac"),
}


def available(language: str) -> bool:
    """Return whether there is a compiler for the language."""
    return _COMPILERS[language] is not None


def compile_program(file: Path, *options: str, source: str = "int main(void) { return 0; }") -> None:
    """Compile a program in C."""
    _run(["cc", "-xc", "-", "-xnone", "-w", "-o", str(file), *options], source.encode())


def program_from(language: str, text: str) -> Program:
    """Return a program with this text: P is the prefix in C, `p!()` in Rust, and PREFIX in Java."""
    if language == "java":
        return _java_program("Case", text, "")
    build = {"c": _build_c, "rust": _build_rust}[language]
    return Program(
        "case", "", lambda prefix, top: build(text, prefix, top / "case", []), lambda top: [str(top / "case")]
    )


def add_libraries(prefix: Path) -> None:
    """Put what programs of the form "link" need into the prefix."""
    library = prefix / "lib"
    library.mkdir(parents=True, exist_ok=True)
    for name, options in (("message", ["-Wl,-soname,libmessage.so"]), ("unnamed", [])):
        source = b"const char *message(void) { return __FILE__; }\n"
        _run(["cc", "-xc", "-", "-shared", "-fPIC", "-o", str(library / f"lib{name}.so"), *options], source)
    shutil.copy(Path("/lib64/ld-linux-x86-64.so.2").resolve(), library / "ld.so")


def _run(command: list[str], source: bytes) -> None:
    done = subprocess.run(command, input=source, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.decode(errors='replace')}\n{source.decode()}")


def _c_literals(choose: random.Random) -> str:
    lead, tail = choose.choice(_LEADS), choose.choice(_TAILS)
    return f"""#define LEAD "{lead}"
#define T "{tail}"
#define WIDE(x) L"" x
#define UTF16(x) u"" x
#define UTF32(x) U"" x
"""


def _options(choose: random.Random) -> list[str]:
    options = choose.sample(_OPTIONS, choose.choice((0, 0, 1, 2)))
    if "-static" in options:
        options = [option for option in options if option != "-fsanitize=undefined"]
    return [choose.choice(_LEVELS), *options]


def _c(name: str, choose: random.Random) -> Program:
    form = choose.choice(list(_C_FORMS))
    before, body = _C_FORMS[form]
    text = (
        f"{_PRELUDE}{_c_literals(choose)}{before}\nint main(int argc, char **argv) {{ {body} return 0; }}\n"
    )
    options = _options(choose)

    def build(prefix: str, top: Path) -> None:
        _build_c(text, prefix, top / name, options)

    return Program(name, f"C, {form}, {' '.join(options)}", build, lambda top: [str(top / name)])


def _build_c(text: str, prefix: str, file: Path, options: list[str]) -> None:
    _run(["cc", "-xc", "-", "-w", f'-DP="{prefix}"', "-o", str(file), *options], text.encode())


def _cxx(name: str, choose: random.Random) -> Program:
    form = choose.choice(list(_CXX_FORMS))
    before, body = _CXX_FORMS[form]
    headers = [
        "array",
        "cstdio",
        "exception",
        "filesystem",
        "iostream",
        "map",
        "stdexcept",
        "string",
        "string_view",
        "vector",
    ]
    includes = "".join(f"#include <{header}>\n" for header in headers)
    zero = "static volatile int zero;\n"
    main = f"{before}\nint main(int argc, char **argv) {{ {body} return 0; }}\n"
    text = f"{includes}{zero}{_c_literals(choose)}{main}"
    options = [option for option in _options(choose) if option != "-flto"]

    def build(prefix: str, top: Path) -> None:
        command = ["c++", "-std=c++20", "-xc++", "-", "-w", f'-DP="{prefix}"', "-o", str(top / name)]
        _run([*command, *options], text.encode())

    return Program(name, f"C++, {form}, {' '.join(options)}", build, lambda top: [str(top / name)])


def _link(name: str, choose: random.Random) -> Program:
    form = choose.choice(list(_LINK_FORMS))
    symbols = choose.sample(_SYMBOLS, choose.choice((0, 1, 2)))
    exported = "".join(
        f'int {symbol}_ = 3; extern int {symbol} __attribute__((alias("{symbol}_")));\n' for symbol in symbols
    )
    text = (
        f"{_PRELUDE}{exported}const char *message(void);\nint main(void) {{ return puts(message()) < 0; }}\n"
    )
    options = ["-rdynamic", *choose.sample(["-g", "-Wl,-O2", "-Wl,--hash-style=sysv", "-no-pie", "-s"], 2)]

    def build(prefix: str, top: Path) -> None:
        link = _LINK_FORMS[form].format(prefix=prefix).split(" ")
        _run(["cc", "-xc", "-", "-xnone", "-w", "-o", str(top / name), *options, *link], text.encode())

    shown = " ".join([form, *options, *symbols])
    return Program(name, f"loader, {shown}", build, lambda top: [str(top / name)])


def _rust(name: str, choose: random.Random) -> Program:
    form = choose.choice(list(_RUST_FORMS))
    before, body = _RUST_FORMS[form]
    options = choose.choice(
        (["-Copt-level=0"], ["-Copt-level=1"], ["-Copt-level=3"], ["-Copt-level=s"], ["-g"])
    )

    def build(prefix: str, top: Path) -> None:
        tail_macro = f'macro_rules! t {{ () => {{ "{tail}" }} }}\n'
        main = f"{before}\nfn main() {{ let a = std::env::args().nth(1).unwrap(); {body} }}\n"
        _build_rust(tail_macro + main, prefix, top / name, options)

    tail = choose.choice(_TAILS)
    return Program(name, f"Rust, {form}, {' '.join(options)}", build, lambda top: [str(top / name)])


def _build_rust(text: str, prefix: str, file: Path, options: list[str]) -> None:
    text = f'#![allow(unused)]\nmacro_rules! p {{ () => {{ "{prefix}" }} }}\n{text}'
    _run([str(_COMPILERS["rust"]), "-", "-Cstrip=debuginfo", "-o", str(file), *options], text.encode())


def _go(name: str, choose: random.Random) -> Program:
    form = choose.choice(list(_GO_FORMS))
    before, body = _GO_FORMS[form]
    tail, options = choose.choice(_TAILS), choose.choice(([], ["-ldflags=-s -w"], ["-gcflags=-N -l"]))
    text = f"""package main
import ("fmt"; "os"; "strings")
const P, T = "PREFIX", "{tail}"
{before}
func main() {{ _ = os.Args; _ = strings.ToUpper; {body} }}
"""

    def build(prefix: str, top: Path) -> None:
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "main.go")
            source.write_text(text.replace("PREFIX", prefix))
            cache = Path(tempfile.gettempdir(), "snapper-tests-go")
            variables = {
                "GOCACHE": str(cache),
                "GOFLAGS": "-trimpath",
                "GO111MODULE": "off",
                "CGO_ENABLED": "0",
            }
            command = ["env", *(f"{key}={value}" for key, value in variables.items())]
            _run([*command, "go", "build", "-o", str(top / name), *options, str(source)], b"")

    return Program(name, f"Go, {form}, {' '.join(options)}", build, lambda top: [str(top / name)])


def _java(name: str, choose: random.Random) -> Program:
    body, tail = choose.choice(_JAVA_FORMS), choose.choice(_TAILS)
    text = f"""class {name} {{
    static final String P = "PREFIX", T = "{tail}";
    public static void main(String[] args) throws Exception {{ {body} }}
}}
"""
    return _java_program(name, text, body)


def _java_program(name: str, text: str, form: str) -> Program:
    def build(prefix: str, top: Path) -> None:
        source = top / f"{name}.java"
        source.write_text(text.replace("PREFIX", prefix))
        _run(["javac", "-encoding", "utf-8", "-d", str(top), str(source)], b"")
        source.unlink()

    return Program(name, f"Java, {form}", build, lambda top: ["java", "-cp", str(top), name])
