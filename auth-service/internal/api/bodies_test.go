package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// Every route that reads a body reads it strictly, says what is wrong where,
// and stores nothing of it.
func TestEveryBodyIsReadStrictly(t *testing.T) {
	t.Parallel()
	s := setup(t)
	access, refresh := s.login(adminEmail, adminPassword)
	stored := func() (text string) {
		require.NoError(t, s.pool.QueryRow(t.Context(), `select (select json_agg(u order by id)::text from users u) ||
			(select json_agg(x order by id)::text from sessions x) || (select json_agg(r order by hash)::text from refresh_tokens r)`).Scan(&text))
		return text
	}
	before := stored()
	for route, fields := range map[string]map[string]string{
		"POST /auth/register":                            {"email": "a@b.c", "password": "a good password", "name": "A"},
		"POST /auth/login":                               {"email": adminEmail, "password": adminPassword},
		"POST /auth/refresh":                             {"refresh_token": refresh},
		"POST /auth/logout":                              {"refresh_token": refresh},
		"POST /auth/password":                            {"current_password": adminPassword, "new_password": "a better password"},
		"PUT /admin/users/" + uuid.NewString() + "/role": {"role": "Admin"},
	} {
		method, path, _ := strings.Cut(route, " ")
		with := func(extra string) string {
			b, err := json.Marshal(fields)
			require.NoError(t, err)
			return extra + string(b)[1:]
		}
		refused := func(status int, pointer, body string, header ...string) {
			t.Helper()
			a := s.call(method, path, access, body, header...)
			require.Equal(t, status, a.status, "%s %.100q: %s", route, body, a.body)
			require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), route)
			if pointer != "" {
				require.Contains(t, a.body, fmt.Sprintf(`"errors":[{"pointer":%q`, pointer), "%s %.100q", route, body)
			}
		}
		good := with(`{`)
		for _, body := range []string{`{`, `[]`, `null`, `true`, `"x"`, `7`, ` `, good + `{}`, good + `]`, good[:len(good)-1], `[` + good + `]`, "\ufeff" + good,
			with("{\"x\":\"\xff\","), with(`{"\ud800":1,`), with(`{x:1,`), with(`{'x':1,`), with(`{/**/`), with(`{"x":01,`), with(`{"x":NaN,`),
			with(`{"x":` + strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40) + `,`), strings.Repeat(`[`, 100_000), strings.Repeat(`{"a":`, 100_000)} {
			refused(400, "", body)
		}
		refused(400, "/x", with(`{"x":1,`))
		refused(413, "", strings.Repeat(" ", 1<<20)+good)
		for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/json; charset=utf-16", "application/json, text/plain", "json"} {
			refused(415, "", good, "Content-Type: "+media)
		}
		refused(415, "", good, "Content-Encoding: identity")
		for name := range fields {
			refused(400, "/"+name, with(fmt.Sprintf(`{%q:"x",`, name)))
			refused(400, "/"+strings.ToUpper(name), with(fmt.Sprintf(`{%q:"x",`, strings.ToUpper(name))))
			for _, wrong := range []string{`1`, `1.5`, `true`, `[]`, `["x"]`, `{}`} {
				rest := maps.Clone(fields)
				delete(rest, name)
				var pairs []string
				for _, other := range slices.Sorted(maps.Keys(rest)) {
					pairs = append(pairs, fmt.Sprintf(`,%q:%q`, other, rest[other]))
				}
				refused(400, "/"+name, fmt.Sprintf(`{%q:%s%s}`, name, wrong, strings.Join(pairs, "")))
			}
			// PostgreSQL stores no NUL, and refuses it with an error of its own.
			for _, text := range []string{`\u0000`, `a\u0000b`, strings.Repeat("x", 100_000)} {
				odd := maps.Clone(fields)
				odd[name] = "?"
				b, err := json.Marshal(odd)
				require.NoError(t, err)
				a := s.call(method, path, access, strings.Replace(string(b), `"?"`, `"`+text+`"`, 1))
				if path == "/auth/logout" {
					require.Equal(t, 204, a.status, "an unknown token is fine")
					continue
				}
				require.Equal(t, 4, a.status/100, "%s %s %.20s: %s", route, name, text, a.body)
			}
		}
	}
	require.Equal(t, before, stored())
}
