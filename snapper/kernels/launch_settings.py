r"""The awk program with which a launcher reads what an environment says about a kernel that is being started.

Every system has awk, and it starts within two milliseconds. Python takes twenty or more, and not all environments have
it.

The program reads records that end in `\001`, in pairs: what a text is, and the text. `registered` is the `kernel.json`
that Jupyter has read, and `kernelspec` that of the environment. The others are files with variables, by their paths in
the environment and in order. Variables give the environment's prefix, and the values of the fields in the kernel's
argv: `snapper_prefix` and `snapper_field_NAME`. `snapper_field_registered` is missing if the user has changed or copied
a `kernel.json` of an earlier version: all variables count as set by Jupyter then.

It prints shell code: a call of `snapper_say` for each file that is ignored, exports of the kernelspec's variables, and,
if the kernelspec is valid, which `snapper_is_valid` says, two functions. `snapper_variables` exports the environment's
variables. `snapper_start` calls `snapper_execute` with the kernel's command, followed by its own arguments.
"""

from __future__ import annotations

#: What records end in. JSON documents do not contain it.
SEPARATOR = "\x01"

READ_SETTINGS = r"""
BEGIN {
    RS = FS = "\001"
    encodes_utf8 = sprintf("%c", 8364) == "\342\202\254"
    escapes["\""] = "\""
    escapes["\\"] = "\\"
    escapes["/"] = "/"
    escapes["b"] = "\b"
    escapes["f"] = "\f"
    escapes["n"] = "\n"
    escapes["r"] = "\r"
    escapes["t"] = "\t"
}

NR % 2 { kind = $0; next }
!read_json($0) { print "snapper_say " quote("ignored " kind ": it is not a JSON object"); next }
kind == "registered" { read_registered(); next }
kind == "kernelspec" { read_kernelspec(); next }
{ read_variables(kind == "conda-meta/state") }

END {
    if (!has_command) exit
    print "snapper_variables() {\n:"
    for (variable in variables) {
        if (variables[variable] != "***unset***") print_export(variable, variables[variable])
    }
    print "}"
    print "snapper_start() {\nsnapper_execute" command " \"$@\"\n}\nsnapper_is_valid=yes"
}

# --- the meaning of the documents ---

# Notes the variables that Jupyter sets. The user may have added them.
function read_registered(    path) {
    for (path in strings) if (is_in("env", path)) is_set[part[2]] = 1
}

# Reads an object with variables, or one that has such an object as `env_vars`.
function read_variables(is_state,    path) {
    for (path in strings) {
        if (is_state && is_in("env_vars", path)) variables[part[2]] = strings[path]
        if (!is_state && split(path, part, SUBSEP) == 1) variables[path] = strings[path]
    }
}

function read_kernelspec(    path, number) {
    for (path in strings) {
        if (is_in("env", path) && !is_kept(part[2])) print_export(part[2], substitute(strings[path]))
    }
    for (number = 1; ("argv", number) in strings; number++) command = command " " quote(fill(strings["argv", number]))
    has_command = number > 1 && number > length_of["argv"] && strings["argv", 1] !~ /^-/
}

# Succeeds if the user, or Jupyter, has set the variable.
function is_kept(name) {
    return name in is_set || (!("snapper_field_registered" in ENVIRON) && name in ENVIRON)
}

# Succeeds if a path has two parts and the first is this name; puts both into `part`.
function is_in(name, path) {
    return split(path, part, SUBSEP) == 2 && part[1] == name
}

# Returns a word of the command with the values of its fields. What leads from a kernelspec to the prefix becomes that.
function fill(word,    result, up, field, name) {
    up = "{resource_dir}/../../../.."
    if (word == up || index(word, up "/") == 1) {
        result = ENVIRON["snapper_prefix"]
        word = substr(word, length(up) + 1)
    }
    while (match(word, /[{][A-Za-z0-9_]+[}]/)) {
        field = substr(word, RSTART, RLENGTH)
        name = "snapper_field_" substr(field, 2, RLENGTH - 2)
        result = result substr(word, 1, RSTART - 1) (name in ENVIRON ? ENVIRON[name] : field)
        word = substr(word, RSTART + RLENGTH)
    }
    return result word
}

# Returns the value of a variable with references to others replaced, as Jupyter does it.
function substitute(text,    result, at, word, name) {
    while ((at = index(text, "$"))) {
        result = result substr(text, 1, at - 1)
        text = substr(text, at + 1)
        if (match(text, /^[A-Za-z_][A-Za-z0-9_]*/) || match(text, /^[{][A-Za-z_][A-Za-z0-9_]*[}]/)) {
            word = substr(text, 1, RLENGTH)
            name = word
            gsub(/[{}]/, "", name)
            if (name == "LC_ALL") name = "snapper_locale" # this program runs with another one
            result = result (name in ENVIRON ? ENVIRON[name] : "$" word)
            text = substr(text, RLENGTH + 1)
        } else {
            result = result "$"
            if (substr(text, 1, 1) == "$") text = substr(text, 2)
        }
    }
    return result text
}

function print_export(name, value) {
    if (name ~ /^[A-Za-z_][A-Za-z0-9_]*$/) print "export " name "=" quote(value)
}

function quote(text) {
    gsub(/\047/, "\047\"\047\"\047", text)
    return "\047" text "\047"
}

# --- JSON ---

# Reads a document that is an object, and puts its strings, and those in objects and arrays directly in it, into
# `strings`, by name or by name and position; and how long the arrays are into `length_of`.
function read_json(text,    at, token, depth, allowed, is_name, name, container) {
    split("", strings)
    split("", length_of)
    sub(/^\357\273\277/, "", text) # a byte order mark
    if (!tokenize(text)) return 0
    allowed = "{"
    for (at = 1; at <= count; at++) {
        token = tokens[at]
        if (!index(allowed, token)) return 0
        if (token == "{" || token == "[") {
            if (depth == 1 && token == "[") length_of[name[1]] = 1
            container[++depth] = token
            name[depth] = 1
            is_name = token == "{"
            allowed = is_name ? "s}" : "{[so]"
        } else if (token == ":") {
            allowed = "{[so"
        } else if (token == ",") {
            if (depth == 2 && container[2] == "[") length_of[name[1]]++
            name[depth]++
            is_name = container[depth] == "{"
            allowed = is_name ? "s" : "{[so"
        } else if (token == "s" && is_name) {
            name[depth] = string[at]
            is_name = 0
            allowed = ":"
        } else {
            if (token == "}" || token == "]") depth--
            else if (token == "s" && is_possible[at] && depth == 1) strings[name[1]] = string[at]
            else if (token == "s" && is_possible[at] && depth == 2) strings[name[1], name[2]] = string[at]
            allowed = !depth ? "" : container[depth] == "{" ? ",}" : ",]"
        }
    }
    return count && allowed == ""
}

# Splits a document into `tokens`: `s` for strings, `o` for other values, and punctuation.
function tokenize(text,    parts, number, at) {
    count = 0
    number = split(text, parts, /"/) # some awks split at line ends, too, if it is no expression
    for (at = 1; at <= number; at++) {
        if (!tokenize_outside(parts[at])) return 0
        if (at == number) return 1
        tokens[++count] = "s"
        is_possible[count] = 1
        start_text()
        while (++at < number && ends_escaped(parts[at])) {
            if (!decode(substr(parts[at], 1, length(parts[at]) - 1))) return 0
            add_text("\"")
        }
        if (at == number || !decode(parts[at])) return 0
        string[count] = whole_text()
    }
}

# Succeeds if a part of a document ends in an odd number of backslashes, so that the next quote is part of the string.
function ends_escaped(part,    size, at) {
    size = length(part)
    for (at = size; at > 0 && substr(part, at, 1) == "\\"; at--);
    return (size - at) % 2
}

# Collect a text in pieces, in linear time.
function start_text() { collected = pending = "" }
function whole_text() { return collected pending }
function add_text(piece) {
    pending = pending piece
    if (length(pending) > 500) {
        collected = collected pending
        pending = ""
    }
}

function tokenize_outside(text,    words, number, at) {
    gsub(/[][{}:,]/, " & ", text)
    number = split(text, words, /[ \t\r\n]+/)
    for (at = 1; at <= number; at++) {
        if (words[at] == "") continue
        if (words[at] ~ /^[][{}:,]$/) tokens[++count] = words[at]
        else if (words[at] ~ /^(true|false|null|NaN|-?Infinity|-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][-+]?[0-9]+)?)$/) {
            tokens[++count] = "o"
        } else return 0
    }
    return 1
}

# Adds a part of a string to the collected text. The string is not `is_possible` if no variable can have this value.
function decode(part,    pieces, number, at, piece, code, low) {
    if (part ~ /[\002-\037]/) return 0
    number = split(part, pieces, /\\/)
    add_text(pieces[1])
    for (at = 2; at <= number; at++) {
        piece = pieces[at]
        if (piece == "") { # an escaped backslash: what follows is text
            add_text("\\" pieces[++at])
            continue
        }
        if (substr(piece, 1, 1) in escapes) {
            add_text(escapes[substr(piece, 1, 1)] substr(piece, 2))
            continue
        }
        code = unicode(piece)
        if (code < 0) return 0
        if (code >= 55296 && code < 56320 && length(piece) == 5 && at < number) {
            low = unicode(pieces[at + 1])
            if (low >= 56320 && low < 57344) {
                code = 65536 + (code - 55296) * 1024 + low - 56320
                piece = pieces[++at]
            }
        }
        if (code >= 56448 && code < 56576) add_text(sprintf("%c", code - 56320)) # a byte that is not UTF-8
        else if (code == 0 || (code >= 55296 && code < 57344)) is_possible[count] = 0
        else add_text(utf8(code))
        add_text(substr(piece, 6))
    }
    return 1
}

# Returns the number that a text has after `u`, -1 if it has none.
function unicode(text,    at, code) {
    if (text !~ /^u[0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f]/) return -1
    for (at = 2; at <= 5; at++) code = code * 16 + index("0123456789abcdef", tolower(substr(text, at, 1))) - 1
    return code
}

function utf8(code) {
    if (code < 128 || encodes_utf8) return sprintf("%c", code)
    if (code < 2048) return sprintf("%c", 192 + int(code / 64)) continuation(code)
    if (code < 65536) return sprintf("%c", 224 + int(code / 4096)) continuation(code / 64) continuation(code)
    return sprintf("%c", 240 + int(code / 262144)) continuation(code / 4096) continuation(code / 64) continuation(code)
}

function continuation(code) {
    return sprintf("%c", 128 + int(code) % 64)
}
"""
