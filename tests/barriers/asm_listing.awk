# Makes a compiler's assembly readable: the functions with C names, their instructions and jump targets,
# nothing else.
# Input: g++ -S or clang -S of asm_listing.cpp, x86-64 or arm64.

/^[A-Za-z_][A-Za-z0-9_]*:/ {
  name = $1
  shown = name !~ /^_Z/ # C++ names belong to what the functions did not inline: not ours
  if (shown) print "\n" name
  next
}
!shown { next }
/^[ \t]*\.size/ { shown = 0; next }
/^\.L[0-9A-Za-z_]*:/ { if ($1 !~ /^\.L(FB|FE|LSDA|func)/) print $1; next }
/^[ \t]*[.#]/ || /^[ \t]*$/ { next } # directives and comments
{
  instruction = $1
  sub(/^[ \t]*[^ \t]+[ \t]*/, "")
  gsub(/[ \t]+/, " ")
  printf($0 == "" ? "    %s\n" : "    %-7s %s\n", instruction, $0)
}
