//go:build unix

package rows

import (
	"bytes"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/deploy/local/runner"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFlattenKeepsOrderAndHides(t *testing.T) {
	t.Parallel()
	line, values := flatten(`{"status":"paid","note":null,"empty":"","total":12,"items":[{"a": 1}],"id":"x"}`, []string{"id"})
	require.Equal(t, `status=paid  total=12  items=[{"a": 1}]`, line)
	require.Equal(t, "x", values["id"])
}

func TestRowsAreFoundThroughThePayment(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	const order, other = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"
	_, err = conn.Exec(t.Context(), `
		create table payments (id text, order_id uuid, provider_ref text);
		create schema simulator;
		create table simulator.charges (ref text, amount int);
		insert into payments values ('p1', '`+order+`', 'sim_1'), ('p2', '`+other+`', 'sim_2');
		insert into simulator.charges values ('sim_1', 1780), ('sim_2', 5)`)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	var out bytes.Buffer
	require.NoError(t, database(t.Context(), url, order, nil, &out))
	require.Contains(t, out.String(), "  public.payments\n    id=p1  order_id="+order+"  provider_ref=sim_1\n")
	require.Contains(t, out.String(), "  simulator.charges\n    ref=sim_1  amount=1780\n")
	require.NotContains(t, out.String(), "sim_2")
}

func TestBadOrderAndNothingRunning(t *testing.T) {
	t.Parallel()
	o, err := runner.OptionsFrom(func(name string) string { return map[string]string{"TIFFIN_PORT_OFFSET": "22000"}[name] })
	require.NoError(t, err)
	require.ErrorContains(t, Print(t.Context(), o, "42", &bytes.Buffer{}), `ORDER="42" is no order id`)
	err = Print(t.Context(), o, "01900000-0000-7000-8000-000000000001", &bytes.Buffer{})
	require.ErrorContains(t, err, "is the platform running? make run")
}
