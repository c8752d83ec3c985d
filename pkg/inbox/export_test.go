package inbox

// Query is a statement with the types of its parameters and some arguments.
type Query struct{ SQL, Types, Args string }

const (
	claimTypes = "(smallint[], uuid[], smallint[])"
	claimArgs  = "('{1,1}', '{00000000-0000-0000-0000-000000000000,00000000-0000-0000-0000-000000000001}', '{0,0}')"
	keyTypes   = "(smallint[], bytea[])"
	keyArgs    = `('{1,1}', '{a,b}')`
)

// HotQueries are what runs for every batch.
var HotQueries = map[string]Query{
	"claims": {selectClaims, claimTypes, claimArgs},
	"keys":   {lockKeys, keyTypes, keyArgs},
	"look":   {selectKeys, keyTypes, keyArgs},
}
